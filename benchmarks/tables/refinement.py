"""Tables from the rows of benchmarks/refinement.py and benchmarks/calibration_voice.py."""

import numpy as np

from residual_st.evaluation.scores import relative_change, score_interval
from tables.common import github, read, with_bounds
from tables.names import reader_name


def refinement_recognition() -> str:
    """Whisper tiny.en on human speech, by number of updates."""
    rows = [row for row in read("refinement") if "wer" in row]
    dense = [_counts(next(row for row in rows if row["system"] == "dense"))]
    lines = [
        [*_case(row), str(score_interval("wer", [_counts(row)])), with_bounds(relative_change("wer", [_counts(row)], dense))]
        for row in _in_order(rows)
    ]
    return github(lines, [*_HEADERS, "WER (95 %)", "change (95 %)"])


def refinement_translation() -> str:
    """Whisper base on telephone prompts, translated into English, by number of updates."""
    rows = [row for row in read("refinement") if "bleu" in row]
    languages = sorted(name for name in rows[0] if name.startswith("bleu_"))
    lines = [[*_case(row), *(f"{row[name]:.1f}" for name in ("bleu", *languages))] for row in _in_order(rows)]
    return github(lines, [*_HEADERS, "BLEU", *(name.removeprefix("bleu_") for name in languages)])


_HEADERS = ["encoder", "kept", "updates", "core minutes", "loss / dense"]


def _case(row: dict) -> list:
    if row["system"] == "dense":
        return ["dense", "", "", "", "1.00"]
    minutes = f"{row['core_seconds'] / 60:.1f}" if row["updates"] else ""
    ratio = f"{row['loss'] / row['dense_loss']:.2f}"
    return [reader_name(row["system"]), f"{row['kept']:.1%}", row["updates"], minutes, ratio]


def _in_order(rows: list[dict]) -> list[dict]:
    """The dense model once, then each system in order of updates."""
    kept = {(row["system"], row["updates"]): row for row in rows}
    return sorted(kept.values(), key=lambda row: (-row["kept"], row["system"], row["updates"]))


def calibration_voice() -> str:
    """WER on prompts of one voice and on actors, by calibration audio."""
    rows = read("calibration_voice")
    dense = {row["test"]: [_counts(row)] for row in rows if row["system"] == "dense"}
    systems = {}
    for row in rows:
        if row["system"] != "dense":
            case = row["system"].rpartition("-")[2], row["updates"], row["calibrated_on"]
            change = with_bounds(relative_change("wer", [_counts(row)], dense[row["test"]]))
            systems.setdefault(case, {})[row["test"]] = [f"{row['wer']:.2f}", change]
    lines = [[*case, *(cell for test in dense for cell in cells[test])] for case, cells in systems.items()]
    scores = [header for test in dense for header in (f"WER of the {test}", "change (95 %)")]
    return github(lines, ["kept", "updates", "calibrated on", *scores])


def _counts(row: dict) -> np.ndarray:
    return np.array([row["errors"], row["words"]], float).T
