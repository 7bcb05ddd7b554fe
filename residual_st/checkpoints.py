"""Reading and writing fairseq checkpoint files."""

import argparse
import pickle
from pathlib import Path

import torch
from torch import Tensor

from residual_st.errors import InputError
from residual_st.files import atomically


def load_checkpoint(path: str | Path) -> dict:
    """Read a fairseq checkpoint onto the CPU, as data only: `model` (name -> tensor), `cfg` or `args`, and what else it holds.

    Raises:
        InputError: if the file is missing or damaged, holds more than flags and tensors, or is no fairseq checkpoint.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist or is not a file; give a checkpoint that fairseq-train wrote")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file leads the unpickler to raise almost anything
        if isinstance(error, pickle.UnpicklingError) and "nsupported global" in str(error).lower():
            raise InputError(f"{path} is refused: it holds more than tensors and flags, and could run code when opened") from error
        raise InputError(f"{path} cannot be read as a checkpoint; it is damaged or of another kind") from error
    if not isinstance(state, dict) or "model" not in state:
        raise InputError(f"{path} is not a fairseq checkpoint: it has no `model`")
    return state


def save_checkpoint(state: dict, path: str | Path) -> None:
    """Write a checkpoint that appears under its name only when it is whole; a failed write leaves nothing behind."""
    try:
        with atomically(path) as partial:
            torch.save(state, partial)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error


def refuse_existing(path: str | Path, force: bool) -> None:
    """Raise InputError, before any work, where an output would overwrite a file and `force` is not given, or has no folder."""
    if Path(path).is_dir() or (Path(path).exists() and not force):
        raise InputError(f"{path} exists already; name another output, or give --force to overwrite a file")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {Path(path).absolute().parent}")


def model_flags(state: dict, path: str | Path) -> argparse.Namespace:
    """The flags of the model in a checkpoint. Raises InputError where it has none.

    Those that name a checkpoint to start from are cleared: its weights are in this one, and it may be gone.
    """
    cfg = state.get("cfg")
    flags = cfg["model"] if cfg else state.get("args")
    if isinstance(flags, dict):
        flags = argparse.Namespace(**flags)
    if getattr(flags, "arch", None) is None:
        raise InputError(f"{path} does not say which architecture it is of; it was not written by fairseq-train")
    flags.load_pretrained_encoder_from = flags.load_pretrained_decoder_from = None
    return flags


def first_difference(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> str | None:
    """What first keeps the state dict `theirs` from being loaded into a model with the state dict `ours`, in words."""
    if not theirs:
        return "it holds no such part"
    plan = next((key for key in {**ours, **theirs} if key.endswith("shared_weights.layer_groups")), None)
    if plan:
        sharing = [_sharing(state.get(plan)) for state in (theirs, ours)]
        if sharing[0] != sharing[1]:
            return f"it {sharing[0]}, this one {sharing[1]}"
    for key, value in ours.items():
        if key not in theirs:
            return f"it has no {key}"
        if theirs[key].shape != value.shape:
            return f"its {key} is of shape {tuple(theirs[key].shape)}, this one's of {tuple(value.shape)}"
    extra = next((key for key in theirs if key not in ours), None)
    return f"it has {extra}, which this one lacks" if extra else None


def _sharing(groups: Tensor | None) -> str:
    return "has a dense encoder" if groups is None else f"shares its layers as {','.join(map(str, groups.tolist()))}"
