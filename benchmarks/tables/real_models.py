"""Tables from the rows of benchmarks/real_models.py."""

import numpy as np
from training_runs.comparison import compare

from residual_st.evaluation.scores import relative_change, score_interval
from tables.common import github, read, with_bounds
from tables.names import reader_name
from tables.quality import measures_of


def real_models_whisper() -> str:
    """Whisper tiny.en on human speech: without fine-tuning."""
    return _table(lambda row: not row["updates"])


def real_models_headline() -> str:
    """The increase in word errors by each method at each size, without fine-tuning."""
    rows = {row["system"]: row for row in read("real_models")}
    dense = _counts(rows["dense"])
    methods = {
        "compress": "compressed",
        "low rank": "low-rank",
        "LiteASR, uniform ranks": "lite-asr-uniform",
        "LiteASR": "lite-asr",
    }
    lines = []
    for size in (0.75, 0.6, 0.45):
        changes = (relative_change("wer", _counts(rows[f"{method}-{size}"]), dense) for method in methods.values())
        lines.append([f"{size:.0%}", *map(with_bounds, changes)])
    return github(lines, ["encoder kept", *methods])


def real_models_refined() -> str:
    """The same after refinement."""
    return _table(lambda row: row["updates"] or row["system"] == "dense")


def _table(selected) -> str:
    rows = read("real_models")
    counts = {row["system"]: _counts(row) for row in rows}
    lines = []
    for row in sorted(filter(selected, rows), key=lambda row: (-row["kept"], row["system"])):
        system = row["system"]
        dense = system == "dense"
        lines.append(
            [
                reader_name(system),
                f"{row['kept']:.1%}",
                f"{row['loss'] / row['dense_loss']:.2f}",
                str(score_interval("wer", counts[system])),
                "" if dense else with_bounds(relative_change("wer", counts[system], counts["dense"])),
                row["runaways"],
                "" if dense else f"{row['core_seconds'] / 60:.1f}",
            ]
        )
    return github(lines, ["encoder", "kept", "loss / dense", "WER (95 %)", "change (95 %)", "repetition loops", "core minutes"])


def _counts(row: dict) -> list[np.ndarray]:
    return [np.array([row["errors"], row["words"]], float).T]


def real_models_fairseq() -> str:
    """A fairseq model on human speech."""
    return measures_of(compare(read("human"), "dense"))
