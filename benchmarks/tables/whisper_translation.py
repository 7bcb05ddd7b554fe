"""Tables from the rows of benchmarks/translation.py."""

from collections.abc import Callable
from typing import Any

import numpy as np

from residual_st.evaluation.scores import score_interval
from tables.common import github, read
from tables.names import reader_name

LANGUAGES = ("es", "fr", "it")


def whisper_translation() -> str:
    """BLEU by language, of fp32 exports."""
    return _scores([row for row in read("translation") if row["precision"] == "fp32"], _size)


def whisper_translation_headline() -> str:
    """Mean BLEU of compressed models in fp32."""
    rows = {row["system"]: row for row in read("translation") if row["precision"] == "fp32"}
    names = (
        "dense",
        "whole-0.8",
        "whole-0.65",
        "compressed-0.75",
        "compressed-0.6",
        "compressed-0.45-refined",
        "compressed-0.45",
        "compressed-0.3-refined",
        "compressed-0.3",
    )
    lines = []
    for row in (rows[name] for name in names if name in rows):
        change = "" if row["system"] == "dense" else f"{_mean(row) - _mean(rows['dense']):+.1f}"
        lines.append([reader_name(row["system"]), *_kept(row), f"{row['bytes'] / 1e6:.0f}", f"{_mean(row):.1f}", change])
    return github(lines, ["system", *_KEPT, "MB", "mean BLEU", "change"])


def whisper_translation_exports() -> str:
    """BLEU of exports in lower precision relative to dense fp32. Sizes are relative to the dense model in half precision."""
    exported = {row["system"] for row in read("translation") if row["precision"] != "fp32"}
    return _scores([row for row in read("translation") if row["system"] in exported], lambda row: -row["bytes"])


def _scores(rows: list[dict], order: Callable[[dict], Any]) -> str:
    dense = next(row for row in read("translation") if (row["system"], row["precision"]) == ("dense", "fp32"))
    lines = []
    for row in sorted(rows, key=order):
        scores, mean = [row["scores"][language] for language in LANGUAGES], _mean(row)
        lines.append(
            [
                reader_name(row["system"]) + ("" if row["precision"] == "fp32" else f", {row['precision']}"),
                *_kept(row),
                f"{row['bytes'] / 1e6:.0f}",
                *(str(score_interval("bleu", [np.array(each["counts"], float)])) for each in scores),
                f"{mean:.1f}" if row == dense else f"{mean:.1f} ({mean - _mean(dense):+.1f})",
                " / ".join(f"{each['chrf']:.1f} ± {each['chrf_interval']:.1f}" for each in scores),
                _minutes(row),
            ]
        )
    bleu = (f"BLEU {name} (95 %)" for name in LANGUAGES)
    return github(lines, ["system", *_KEPT, "MB", *bleu, "mean", "chrF (95 %)", "core minutes"])


def whisper_translation_losses() -> str:
    """The loss of every system relative to the dense model's."""
    rows = [row for row in read("translation") if row["system"] != "dense" and row["precision"] == "fp32"]
    lines = [
        [
            reader_name(row["system"]),
            *_kept(row),
            *(f"{row['loss_ratio'][name]:.2f}" for name in LANGUAGES),
            f"{_loss(row):.2f}",
            _minutes(row),
        ]
        for row in sorted(rows, key=lambda row: (_size(row), _loss(row)))
    ]
    return github(lines, ["system", *_KEPT, *LANGUAGES, "mean", "core minutes"])


_KEPT = ["encoder", "decoder", "whole"]


def _kept(row: dict) -> list[str]:
    return [f"{row['kept'][part]:.0%}" for part in ("encoder", "decoder", "model")]


def _size(row: dict) -> tuple:
    return tuple(-round(row["kept"][part], 2) for part in ("decoder", "encoder"))


def _mean(row: dict) -> float:
    return sum(row["scores"][name]["bleu"] for name in LANGUAGES) / len(LANGUAGES)


def _loss(row: dict) -> float:
    return sum(row["loss_ratio"].values()) / len(row["loss_ratio"])


def _minutes(row: dict) -> str:
    return "" if row["system"] == "dense" else f"{row['core_seconds'] / 60:.1f}"
