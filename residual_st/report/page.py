"""Put a page together: one file, without network."""

import math
from collections import defaultdict
from importlib.resources import files
from typing import NamedTuple

import jinja2

from residual_st.errors import InputError
from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import COUNTS, corpus_scores, relative_change, score_interval
from residual_st.evaluation.units import units_of
from residual_st.report.audio import Recordings
from residual_st.report.differences import mark
from residual_st.report.figures import pareto, training_curves
from residual_st.report.runs import RunFiles

_LOSS = {
    "nll_loss": "negative log-likelihood per word piece, bits",
    "ctc_loss": "CTC loss per word piece, bits, times its weight",
}


def make_page(
    runs: list[RunFiles],
    metric: str,
    title: str,
    samples: int,
    recordings: Recordings | None,
    tokenize: str | None = None,
) -> str:
    """The page on some runs. Runs of one name are seeds of one system; the first is what the others are compared with.

    Args:
        tokenize: sacreBLEU's tokenizer, in place of the one for the references' script.

    Raises:
        InputError: if translations are not of the same sentences.
    """
    systems = defaultdict(list)
    for run in runs:
        systems[run.name].append(run)
    entries = _entries(systems, metric, tokenize)
    reference = next((entry["system"] for entry in entries if entry["change_percent"] is None), "")
    placed = [entry for entry in entries if entry["fraction"] is not None]
    names = list(systems)
    template = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined).from_string(
        files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        summary=_summary(systems),
        missing=missing_parts(runs),
        reference=reference,
        table=[_shown(entry, systems.get(entry["system"], [None])[0]) for entry in entries],
        scoring=_scoring(entries),
        pareto=pareto(placed, metric, reference, names) if len(placed) > 1 else None,
        curves=_curves(systems),
        heat_maps=[_heat_map(name, members[0].energies) for name, members in systems.items() if members[0].energies],
        samples=_samples(systems, samples, recordings),
    )


def missing_parts(runs: list[RunFiles]) -> list[str]:
    """What the page lacks, run by run, and the command that makes it."""
    made_by = {
        "training log": ("log", "residual-st train keeps one in the run's folder, fairseq-train with --log-file FOLDER/train.log"),
        "translations": ("sentences", "fairseq-generate … >FOLDER/generate-TESTSET.txt makes them"),
        "checkpoint": ("model", "give the folder that training wrote"),
    }
    return [
        f"{run.name} has no {part}: {how}."
        for run in runs
        for part, (attribute, how) in made_by.items()
        if not getattr(run, attribute)
    ]


def _summary(systems: dict[str, list[RunFiles]]) -> str:
    names = [f"{name} ({len(members)} seeds)" if len(members) > 1 else name for name, members in systems.items()]
    summary = "Runs: " + ", ".join(names)
    lines = {tuple(run.sentences) for members in systems.values() for run in members if run.sentences}
    if len(lines) != 1:
        return f"{summary}."
    numbers = lines.pop()
    left_out = max(numbers) + 1 - len(numbers)  # by fairseq-generate, or a shard of it
    return (
        f"{summary}. Test set of {len(numbers)} sentences{f'; {left_out} lines of its manifest are missing' if left_out else ''}."
    )


def _scoring(entries: list[dict]) -> list[str]:
    """Details of a score that are needed to compare it with other scores."""
    said = []
    for units in dict.fromkeys(entry["units"] for entry in entries):
        if entries[0]["metric"] == "bleu":
            said.append(f"BLEU: sacreBLEU, {units.signature} (tokenizer {units.tokenize}: {units.reason}).")
        elif units.characters:
            said.append("CER, the error rate by characters, without spaces: the script puts none between words.")
        else:
            said.append("WER: punctuation and case as they are.")
    return said


def _entries(systems: dict[str, list[RunFiles]], metric: str, tokenize: str | None) -> list[dict]:
    """One entry for each system with translations: its score, and its change from the first system's."""
    translated = {name: members for name, members in systems.items() if all(run.sentences for run in members)}
    if not translated:
        return []
    reference = next(iter(translated))
    texts = [sentence.reference for sentence in translated[reference][0].sentences.values()]
    counts, units = {}, units_of(texts, tokenize)
    for name, members in translated.items():
        for run in members:
            if [sentence.reference for sentence in run.sentences.values()] != texts:
                raise InputError(f"{name} has translations of other sentences than {reference}; take outputs of one test set")
        counts[name] = [COUNTS[metric](list(run.sentences.values()), units) for run in members]
    sizes = {name: members[0].model["encoder_matrix_parameters"] for name, members in translated.items() if members[0].model}
    entries = []
    for name, members in translated.items():
        paired = min(len(counts[name]), len(counts[reference]))
        change = None if name == reference else relative_change(metric, counts[name][:paired], counts[reference][:paired])
        entries.append(
            {
                "system": name,
                "fraction": sizes[name] / sizes[reference] if name in sizes and reference in sizes else None,
                "metric": metric,
                "units": units,
                "seeds": len(members),
                "score": score_interval(metric, counts[name]),
                "change_percent": change,
                "chrf": sum(corpus_scores(list(run.sentences.values()), units)["chrf"] for run in members) / len(members),
            }
        )
    return entries


def _shown(entry: dict, run: RunFiles | None) -> dict[str, str]:
    """A line of the table. It includes the sharing only if the run's checkpoint exists."""
    model = run.model if run else None
    sharing = "dense" if model else ""
    if run and model and run.energies:
        rank = str(model["residual_rank"])
        sharing = f"K={model['group_size']}, R={rank if len(rank) < 6 else 'by layer'}"
        sharing += ", diagonal" if model["residual_diagonal"] else ""
    return {
        "system": entry["system"],
        "encoder": "" if entry["fraction"] is None else f"{100 * entry['fraction']:.1f} %",
        "sharing": sharing,
        "BLEU" if entry["metric"] == "bleu" else entry["units"].error_rate: str(entry["score"]),
        "change, %": "" if entry["change_percent"] is None else str(entry["change_percent"]),
        "chrF": f"{entry['chrf']:.1f}",
        "seeds": str(entry["seeds"]),
    }


class Figure(NamedTuple):
    svg: str
    caption: str


def _curves(systems: dict[str, list[RunFiles]]) -> list[Figure]:
    figures = []
    for part in ("validation", "training"):
        of_seeds = {name: [getattr(run.log, part) for run in members if run.log] for name, members in systems.items()}
        for metric, label in _LOSS.items():
            curves = {name: [its[metric] for its in seeds if metric in its] for name, seeds in of_seeds.items()}
            curves = {name: seed_curves for name, seed_curves in curves.items() if seed_curves}
            if curves:
                caption = f"{part.capitalize()}: {label}, one line for each seed."
                figures.append(Figure(training_curves(curves, label, list(systems)), caption))
    return figures


class Cell(NamedTuple):
    text: str
    colour: str
    ink: str


class HeatMap(NamedTuple):
    name: str
    matrices: list[str]
    rows: list[list[Cell]]


def _heat_map(name: str, energies: list[dict]) -> HeatMap:
    matrices = list(dict.fromkeys(row["matrix"] for row in energies))
    values = {(row["layer"], row["matrix"]): row["residual_to_shared"] for row in energies}
    layers = sorted({layer for layer, _ in values})
    return HeatMap(
        name,
        [matrix.rpartition(".")[2] for matrix in matrices],
        [[_cell(values.get((layer, matrix))) for matrix in matrices] for layer in layers],
    )


def _cell(ratio: float | None) -> Cell:
    """From 0.1 % (white) to 100 % (dark), on a logarithmic scale."""
    if ratio is None:
        return Cell("", "#fff", "#000")
    depth = min(max((math.log10(max(ratio, 1e-6)) + 3) / 3, 0), 1)
    channels = [round(255 + depth * (end - 255)) for end in (24, 78, 119)]
    text = f"{100 * ratio:.1f}" if ratio < 10 else f"{100 * ratio:.0f}"
    return Cell(text, "rgb({}, {}, {})".format(*channels), "#fff" if depth > 0.55 else "#222")


class Sample(NamedTuple):
    number: int
    reference: str
    outputs: list[tuple[str, list]]
    audio: str | None
    space: str


def _samples(systems: dict[str, list[RunFiles]], count: int, recordings: Recordings | None) -> list[Sample]:
    """Sentences from all over the test set, those on which systems disagree before others."""
    first = {name: members[0] for name, members in systems.items()}
    translated: dict[str, dict[int, Sentence]] = {name: run.sentences for name, run in first.items() if run.sentences}
    if not translated or not count:
        return []
    common = sorted(set.intersection(*(set(sentences) for sentences in translated.values())))
    disputed = [number for number in common if len({sentences[number].hypothesis for sentences in translated.values()}) > 1]
    rest = [number for number in common if number not in set(disputed)]
    units = units_of(sentence.reference for sentence in next(iter(translated.values())).values())
    chosen = sorted((_spread(disputed, count) + _spread(rest, count))[:count])
    return [
        Sample(
            number,
            next(iter(translated.values()))[number].reference,
            [(name, mark(*sentences[number], units)) for name, sentences in translated.items()],
            recordings.wav(number) if recordings else None,
            "" if units.characters else " ",
        )
        for number in chosen
    ]


def _spread(numbers: list[int], count: int) -> list[int]:
    """At most `count` of the numbers, evenly spaced."""
    if len(numbers) <= count:
        return list(numbers)
    return [numbers[index * len(numbers) // count] for index in range(count)]
