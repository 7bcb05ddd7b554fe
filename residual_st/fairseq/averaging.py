"""Averaging of several checkpoints of one training run."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from residual_st.errors import InputError
from residual_st.fairseq.checkpoints import first_difference, load_checkpoint, weights_alone
from residual_st.progress import progress


def last_checkpoints(folders: list[str], pattern: str, count: int) -> list[Path]:
    """The `count` newest checkpoints of a folder, by the number in their names."""
    if len(folders) != 1 or not Path(folders[0]).is_dir():
        raise InputError(f"{' '.join(folders)} must be a single folder that contains the checkpoints")
    numbered = [(int(match[1]), path) for path in Path(folders[0]).iterdir() if (match := re.fullmatch(pattern, path.name))]
    if not 1 <= count <= len(numbered):
        raise InputError(f"{folders[0]} contains {len(numbered)} such checkpoints, fewer than the {count} to average")
    return [path for _, path in sorted(numbered, reverse=True)[:count]]


def average(paths: Sequence[str | Path]) -> dict:
    """The first checkpoint with its weights replaced by the mean over all, summed in float64.

    Integers, such as version numbers, are taken from the first. The optimizer's state and the moving average of the weights are
    dropped: they do not belong to the averaged weights, and make the file several times as large. Half-precision weights become
    float32.

    Raises:
        InputError: if a checkpoint cannot be read or its model differs from the first one's.
    """
    result: dict = {}
    totals: dict[str, Tensor] = {}
    for path in progress(paths, desc="averaging", unit="checkpoint"):
        state = load_checkpoint(path)
        result = result or weights_alone(state)
        difference = first_difference(state["model"], result["model"])
        if difference:
            raise InputError(f"the model in {path} differs from the one in {paths[0]}: {difference}")
        for name, value in state["model"].items():
            if value.is_floating_point():
                totals[name] = totals.get(name, 0) + value.double()
    for name, total in totals.items():
        kept = result["model"][name].dtype
        result["model"][name] = (total / len(paths)).to(kept if kept == torch.float64 else torch.float32)
    return result
