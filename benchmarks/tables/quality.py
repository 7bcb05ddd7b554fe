"""Tables from the rows of ../quality.py."""

import re
from collections.abc import Collection, Sequence
from functools import cache

from training_runs.comparison import METRICS, SANITY, compare

from residual_st.report.figures import pareto
from tables.common import github, read, with_bounds
from tables.device import encoder_cost
from tables.names import reader_name

MEASURES = {"wer": "WER", "ctc_wer": "WER of the CTC head", "bleu": "BLEU"}
LADDER = ("k3-r2", "shared", "shared-diagonal", "shared-rank-2", "k3-r8", "k3-r2-cycle", "k3-r2-cycle-reverse")
GRID = re.compile(r"k(\d+)-r(\d+)")  # forms that differ in group size and rank alone
TEACHING = re.compile(r"brief-|long-")  # systems that differ in how they were distilled
COMPRESSED = "compressed-0.34"  # without fine-tuning
BASELINES = {
    "residual-0.34": ("low-rank-0.34", "four-layers-taught", "four-layers"),
    "residual-0.22": ("low-rank-0.22",),
    "residual-as-low-rank-0.22": ("low-rank-0.22",),
}
PICTURED = (
    "dense", "dense-continued", "four-layers-taught", "low-rank-0.34", "low-rank-0.22",
    "residual-0.34", "residual-0.34-continued", "residual-0.22-states",
)  # fmt: skip
STATES = {"residual-0.34-states": ("residual-0.34",), "residual-0.22-states": ("residual-0.22",)}
FORMS_BASELINES = {
    "k12-r8": ("unshared-0.34",),
    "k12-as-unshared-0.34": ("unshared-0.34",),
    "k12-r4": ("unshared-0.22",),
    "k12-as-unshared-0.22": ("unshared-0.22",),
    "k12-r8-states-3": ("unshared-0.34-states-3",),
    "k12-as-unshared-0.34-states-3": ("unshared-0.34-states-3",),
}


@cache
def compared(reference: str = "dense", results: str = "quality") -> list[dict]:
    return compare(read(results), reference, significance=True)


def sanity() -> str:
    """Whether the task can tell encoders apart: dense without layers, with a third of them, and trained with a third."""
    return measures_of([entry for entry in compared() if entry["system"] in SANITY])


# system -> the system of benchmarks/device.py that is its encoder at the size of `s2t_transformer_s`
HEADLINE = {
    "dense": "dense",
    "dense-continued": "dense",
    "residual-0.34": "K=12, R=49",
    "low-rank-0.34": "no shared matrix, R=66",
    "four-layers-taught": "4 layers",
}


def headline() -> str:
    """The residual model of a third of the size and its baselines: size and latency in int8, and quality."""
    costs = {name: encoder_cost("s", f"{system}, int8", "dense, int8") for name, system in HEADLINE.items()}
    return headline_of(compared(), HEADLINE, ["kept"], ["wer", "bleu"], costs)


def headline_of(
    entries: list[dict],
    systems: Collection[str],
    columns: Sequence[str],
    measures: Sequence[str],
    costs: dict[str, dict[str, str]] | None = None,
) -> str:
    """A line for each of these systems, from entries of `compare`.

    Args:
        columns: `kept`, `seeds` or both.
        measures: metrics, each with a column for scores and one for changes.
        costs: system -> name of a further column -> its cell.
    """
    rows = {}
    for entry in (entry for entry in entries if entry["system"] in systems):
        change = f", {with_bounds(entry['change_percent'])}" if entry["change_percent"] else ""
        row = rows.setdefault(entry["system"], {"kept": f"{entry['fraction']:.1%}", "seeds": entry["seeds"]})
        row[entry["metric"]] = f"{entry['score'].value:.1f}{change}"
    costs = costs or {name: {} for name in systems}
    table = [
        [reader_name(name), *(rows[name][key] for key in columns), *costs[name].values(), *(rows[name][key] for key in measures)]
        for name in systems
        if name in rows
    ]
    return github(table, ["encoder", *columns, *next(iter(costs.values())), *(MEASURES[measure] for measure in measures)])


def quality_seeds() -> str:
    """Systems with several seeds: scores with intervals, number of seeds, and time of a run."""
    return measures_of([entry for entry in compared() if entry["seeds"] > 1 and entry["system"] not in SANITY[1:3]])


def quality_continued() -> str:
    """Fine-tuned systems relative to the fine-tuned dense model."""
    distilled = [entry for entry in compared("dense-continued") if entry["seeds"] > 1 and 0 < entry["fraction"] < 1]
    return measures_of([entry for entry in distilled if entry["system"] not in (*SANITY, COMPRESSED)])


def quality_baselines() -> str:
    """The residual model relative to baselines of its size."""
    return _against_baselines("quality", BASELINES)


def quality_forms_baselines() -> str:
    """The same for several forms, after less training."""
    return _against_baselines("quality_forms", FORMS_BASELINES)


def quality_states() -> str:
    """The effect of distilling encoder states in addition to words."""
    return _against_baselines("quality", STATES)


def _against_baselines(results: str, baselines: dict[str, tuple[str, ...]]) -> str:
    runs, rows = read(results), []
    weights = {run["system"]: run["encoder_matrix_parameters"] for run in runs}
    for system, names in baselines.items():
        for baseline in names:
            for entry in compare([run for run in runs if run["system"] in (system, baseline)], baseline):
                if entry["system"] == system:
                    pair = [
                        part
                        for name in (system, baseline)
                        for part in (reader_name(name), f"{weights[name] / weights['dense']:.1%}")
                    ]
                    rows.append([MEASURES[entry["metric"]], *pair, with_bounds(entry["change_percent"])])
    rows.sort(key=lambda row: list(MEASURES.values()).index(row[0]))
    return github(rows, ["measure", "system", "kept", "baseline", "kept", "change (95 %)"])


def quality_both_halves() -> str:
    """Shared encoder and decoder, relative to a dense model with a decoder of six layers."""
    return _both_halves({1, 2, 3})


def quality_both_trained() -> str:
    """The same without the seed whose dense model stayed on the plateau for two epochs."""
    return _both_halves({1, 3})


def _both_halves(seeds: set[int]) -> str:
    return measures_of(compare([row for row in read("decoder") if row["task"] == "st" and row["seed"] in seeds], "deep"))


def quality_once() -> str:
    """Systems with one seed that have no other table."""
    chosen = [entry for entry in compared() if entry["seeds"] == 1 and not TEACHING.match(entry["system"])]
    return measures_of(chosen)


def quality_teaching() -> str:
    """One seed: distillation settings, chosen by dev loss."""
    rows = {row["system"]: row for row in read("quality") if (row["task"], row["seed"]) == ("asr", 1)}
    return _dev_losses([row for name, row in rows.items() if name in ("dense", "residual-0.34") or TEACHING.match(name)])


def quality_tried() -> str:
    """Distillation methods whose code was removed, measured on the first machine."""
    return _dev_losses([row for row in read("quality_tried") if row["updates"] == 1500], "seed")


def quality_tried_forms() -> str:
    """Further methods, with the number of updates of quality_forms.yaml, relative to k12-r8."""
    return _tried_against("k12-r8", 600)


def _tried_against(reference: str, updates: int) -> str:
    rows = [row for row in read("quality_tried") if row["updates"] == updates]
    return _forms_against(reference, [reference, *dict.fromkeys(row["system"] for row in rows)], rows)


def _dev_losses(rows: list[dict], *more: str) -> str:
    table = [
        [
            reader_name(row["system"]),
            *(row[key] for key in more),
            row["updates"],
            f"{row['dev_nll_loss']:.3f}",
            f"{row['dev_ctc_loss']:.3f}",
            f"{row['wer']:.2f}",
        ]
        for row in rows
    ]
    return github(table, ["system", *more, "updates", "dev nll", "dev CTC", "WER"])


def quality_ladder() -> str:
    """Ranks and sharing patterns of the paper, relative to its K=3, R=2."""
    return _forms_against("k3-r2", LADDER)


def quality_sizes() -> str:
    """Group sizes at equal size, relative to K=3, which has rank 0 at this size."""
    return _forms_against("shared-diagonal", ("shared-diagonal", "k12-r8", "k6-r5"))


def quality_distillation() -> str:
    """One form with several distillation settings."""
    systems = dict.fromkeys(row["system"] for row in read("quality_forms"))
    return _forms_against("k12-r8", [system for system in systems if system.startswith("k12-r8")])


def _forms_against(reference: str, systems: Sequence[str], more: Sequence[dict] = ()) -> str:
    """Sizes of these forms relative to the dense encoder and scores relative to `reference`, over all available seeds."""
    rows = [*read("quality_forms"), *more]
    weights = {row["system"]: row["encoder_matrix_parameters"] for row in rows}
    entries = compare([row for row in rows if row["system"] in systems], reference)
    return measures_of([{**entry, "fraction": weights[entry["system"]] / weights["dense"]} for entry in entries])


def quality_grid() -> str:
    """Group sizes by ranks, one seed: weight fraction, word error rate, and that of the CTC head."""
    cells = {}
    for entry in compare([row for row in read("quality_forms") if row["seed"] == 1]):
        place = GRID.fullmatch("k3-r0" if entry["system"] == "shared-diagonal" else entry["system"])
        if place:
            cell = cells.setdefault(tuple(map(int, place.groups())), [f"{entry['fraction']:.1%}"])
            cell.append(f"{entry['score'].value:.1f}")
    group_sizes, ranks = (sorted(set(values)) for values in (zip(*cells) if cells else ((), ())))
    table = [[group_size, *(" · ".join(cells.get((group_size, rank), [])) for rank in ranks)] for group_size in group_sizes]
    return github(table, ["K", *(f"R={rank}" for rank in ranks)])


def measures_of(entries: list[dict]) -> str:
    """A line for each system and measure. `compared` gives the reference."""
    rows = []
    for entry in sorted(entries, key=lambda entry: (entry["task"], METRICS[entry["task"]].index(entry["metric"]))):
        score = entry["score"]
        rows.append(
            [
                MEASURES[entry["metric"]],
                reader_name(entry["system"]),
                f"{entry['fraction']:.1%}",
                f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})",
                "" if entry["change_percent"] is None else with_bounds(entry["change_percent"]),
                " ".join(f"{value:.1f}" for value in entry["by_seed"]),
                f"{entry['chrf']:.1f}",
                f"{entry['p_value']:.3f}" if "p_value" in entry else "",
                f"{entry['core_minutes']:.0f}",
            ]
        )
    headers = ["measure", "system", "kept", "score (95 %)", "change (95 %)", "by seed", "chrF", "p", "core minutes"]
    return github(rows, headers)


def quality_conformer() -> str:
    """fairseq's conformer with the flags of sharing."""
    return measures_of(compare(read("quality_conformer")))


def quality_streaming() -> str:
    """Streaming models on whole sentences."""
    return measures_of(compare(read("quality_streaming")))


def quality_hours() -> str:
    """The number of runs and their total time."""
    rows = [row for name in ("quality", "quality_forms", "quality_tried") for row in read(name)]
    return f"{len(rows)} runs, {sum(row['core_minutes'] for row in rows) / 60:.1f} core hours."


def picture() -> str | None:
    """Size against BLEU of a few systems."""
    shown = [entry for entry in compared() if entry["metric"] == "bleu" and entry["system"] in PICTURED]
    shown = [{**entry, "system": reader_name(entry["system"])} for entry in shown]
    return pareto(shown, "bleu", "dense", [entry["system"] for entry in shown]) if shown else None
