"""Reading logs of fairseq-train, of any model, as curves."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from residual_st.errors import InputError

Curve = list[tuple[int, float]]  # (update, value), in order

_JSON = re.compile(r"(\{.*\})\s*$")
_TRAINING = re.compile(r"epoch \d+: +\d+ / \d+ ")
_PAIR = re.compile(r"\b(\w+)[= ](-?[\d.]+(?:e[-+]?\d+)?|nan|inf)(?=,| \||\s*$)")


@dataclass
class Log:
    """Metric -> curve, for training and for validation. Losses are per token and base 2, as fairseq logs them."""

    training: dict[str, Curve] = field(default_factory=dict)
    validation: dict[str, Curve] = field(default_factory=dict)


def read_log(path: str | Path) -> Log:
    """Read a log of `--log-format simple`, `json` or `tqdm`. If a run was resumed, the later line of an update counts.

    Raises:
        InputError: if the file cannot be read or contains no line of a training run.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    points: dict[str, dict[str, dict[int, float]]] = {"training": {}, "validation": {}}
    for line in lines:
        kind, figures = _figures(line)
        if kind and "num_updates" in figures:
            update = int(figures.pop("num_updates"))
            for name, value in figures.items():
                points[kind].setdefault(name, {})[update] = value
    if not points["training"] and not points["validation"]:
        raise InputError(f"{path} contains no update or validation of fairseq-train; it must be the log of a training run")
    return Log(**{kind: {name: sorted(curve.items()) for name, curve in curves.items()} for kind, curves in points.items()})


def _figures(line: str) -> tuple[str | None, dict[str, float]]:
    """The kind of a line ("training", "validation" or None) and its figures. The logger's name before it is optional."""
    if '{"epoch"' in line:
        entry = _JSON.search(line)
        if entry is None:
            return None, {}
        try:
            values = json.loads(entry[1])
        except ValueError:
            return None, {}
        numbers = {key: number for key, value in values.items() if (number := _number(value)) is not None}
        prefix = next((key.removesuffix("num_updates") for key in values if key.endswith("_num_updates")), "")
        if prefix == "train_":  # the summary of an epoch
            return None, {}
        return "validation" if prefix else "training", {key.removeprefix(prefix): number for key, number in numbers.items()}
    if " valid on " in line:
        kind = "validation"
    elif _TRAINING.search(line):
        kind = "training"
    else:
        return None, {}
    return kind, {name: float(value) for name, value in _PAIR.findall(line)}


def _number(value) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
