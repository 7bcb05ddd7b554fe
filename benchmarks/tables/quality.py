"""What the matrix of `residual-st benchmark quality` says."""

import re
from functools import cache

from residual_st.benchmark.comparison import METRICS, SANITY, compare
from residual_st.report.figures import pareto
from tables.common import github, read, with_bounds

MEASURES = {"wer": "WER", "ctc_wer": "WER, encoder alone", "bleu": "BLEU"}
GRID = re.compile(r"k(\d+)-r(\d+)")  # systems of the matrix that differ in group size and rank alone
TEACHING = re.compile(r"brief-|long-")  # and in how they were taught
SHOWN_APART = re.compile(f"{GRID.pattern}|{TEACHING.pattern}")


@cache
def compared(reference: str = "dense") -> list[dict]:
    return compare(read("quality"), reference, significance=True)


def sanity() -> str:
    """Whether the task can tell: the dense model without its layers, with a third of them, and one trained with a third."""
    return measures_of([entry for entry in compared() if entry["system"] in SANITY])


def quality() -> str:
    """What was made with several seeds, one line a system."""
    rows, metrics = {}, [metric for its in METRICS.values() for metric in its]
    for entry in compared():
        if entry["seeds"] > 1 and entry["system"] not in ("bypassed", "every-third-layer"):
            row = rows.setdefault(entry["system"], {"kept": f"{entry['fraction']:.1%}"})
            row[entry["metric"]] = f"{entry['score'].value:.1f}"
            if entry["change_percent"]:
                row[entry["metric"]] += f", {with_bounds(entry['change_percent'])}"
    table = [[name, row["kept"], *(row.get(metric, "") for metric in metrics)] for name, row in rows.items()]
    return github(table, ["encoder", "kept", *map(MEASURES.get, metrics)])


def quality_seeds() -> str:
    """The same with intervals of the scores themselves, the seeds and what a run took."""
    return measures_of([entry for entry in compared() if entry["seeds"] > 1 and entry["system"] not in SANITY[1:]])


def quality_continued() -> str:
    """The smaller ones against the dense model that was trained as long as they."""
    return measures_of([entry for entry in compared("dense-continued") if entry["seeds"] > 1 and 0 < entry["fraction"] < 1])


def quality_forms() -> str:
    """What was made with one seed, but for what has a table of its own."""
    chosen = [entry for entry in compared() if entry["seeds"] == 1 and not SHOWN_APART.match(entry["system"])]
    return measures_of(chosen)


def quality_teaching() -> str:
    """One seed: ways to teach, and how they were chosen, which is by dev losses."""
    rows = {row["system"]: row for row in read("quality") if (row["task"], row["seed"]) == ("asr", 1)}
    table = [
        [name, row["updates"], f"{row['dev_nll_loss']:.3f}", f"{row['dev_ctc_loss']:.3f}", f"{row['wer']:.2f}"]
        for name, row in rows.items()
        if name in ("dense", "residual-0.34") or TEACHING.match(name)
    ]
    return github(table, ["system", "updates", "dev nll", "dev CTC", "WER"])


def quality_grid() -> str:
    """Group sizes against ranks: what is kept, the word error rate, and the encoder's own."""
    cells = {}
    for entry in compared():
        place = GRID.fullmatch(entry["system"])
        if place and entry["task"] == "asr":
            cell = cells.setdefault(tuple(map(int, place.groups())), [f"{entry['fraction']:.1%}"])
            cell.append(f"{entry['score'].value:.1f}")
    group_sizes, ranks = (sorted(set(values)) for values in (zip(*cells) if cells else ((), ())))
    table = [[group_size, *(" · ".join(cells.get((group_size, rank), [])) for rank in ranks)] for group_size in group_sizes]
    return github(table, ["K", *(f"R={rank}" for rank in ranks)])


def measures_of(entries: list[dict]) -> str:
    """A line for each system and measure; `compared` says against what."""
    rows = []
    for entry in sorted(entries, key=lambda entry: (entry["task"], METRICS[entry["task"]].index(entry["metric"]))):
        score = entry["score"]
        rows.append(
            [
                MEASURES[entry["metric"]],
                entry["system"],
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


def picture() -> str | None:
    """Size against the encoder's own word errors, of what was made with several seeds."""
    shown = [entry for entry in compared() if entry["metric"] == "ctc_wer" and entry["seeds"] > 1 and entry["fraction"]]
    return pareto(shown, "ctc_wer", "dense") if shown else None
