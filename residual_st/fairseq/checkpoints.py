"""Reading and writing fairseq checkpoint files."""

import argparse
import logging
import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from residual_st.errors import InputError, printable, refusing
from residual_st.fairseq.unpickling import check_archive, load_safely
from residual_st.files import atomically

logger = logging.getLogger(__name__)

# Limits on the memory and the time that a file can take, whatever sizes it claims.
_MOST_COPIES = 4  # maximum bytes of weights relative to the file's bytes; several weights may be views of one storage
_MOST_ENTRIES = 10**7  # maximum numbers, strings and containers in a checkpoint, counted at each occurrence


def load_checkpoint(path: str | Path) -> dict:
    """`read_checkpoint`, with a warning that names the objects left out."""
    state, dropped = read_checkpoint(path)
    if dropped:
        logger.warning(printable(f"{path}: not read, because reading them would run code: {', '.join(dropped)}"))
    return state


def read_checkpoint(path: str | Path) -> tuple[dict, list[str]]:
    """Read a fairseq checkpoint onto the CPU as data only: `model` (name -> tensor), `cfg` or `args`, and other entries.

    Weights that were saved from a wrapper of the model, as `module.NAME`, are renamed to `NAME`.

    Returns:
        The checkpoint, and the names of classes whose objects were left out; none of them is imported or run.

    Raises:
        InputError: if the file is missing or damaged, is not a fairseq checkpoint, or claims to contain more than it does.
    """
    if not Path(path).is_file():
        accepted = "a checkpoint of fairseq-train, or a Hugging Face folder where the command takes one"
        raise InputError(f"{path} does not exist or is not a file; give {accepted}")
    dropped: list[str] = []
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        try:
            # a Namespace of flags cannot run code; the permission is withdrawn afterwards unless it existed before
            flags = {argparse.Namespace} - set(torch.serialization.get_safe_globals())
            with warnings.catch_warnings(), torch.serialization.safe_globals(list(flags)):
                warnings.simplefilter("ignore")  # about pickles not written by torch
                state = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # the file contains more than tensors, containers and flags
            if not zipfile.is_zipfile(path):
                raise
            state, dropped = load_safely(path)
    except Exception as error:  # for a damaged file, the unpickler can raise almost any error
        raise InputError(f"{path} cannot be read as a checkpoint; it is damaged or has another format") from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise InputError(f"{path} is not a fairseq checkpoint: it has no `model`")
    weights = state["model"]
    _check_weights(weights, path)
    with refusing(f"{path} is not a fairseq checkpoint"):
        entries = _entries(state, {})
    if entries > _MOST_ENTRIES:
        raise InputError(f"{path} is not a fairseq checkpoint: it has more than {_MOST_ENTRIES:,} entries")
    if weights and all(name.startswith("module.") for name in weights):
        state["model"] = {name.removeprefix("module."): value for name, value in weights.items()}
    return state, dropped


def _check_weights(weights: dict, path: str | Path) -> None:
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{path} is not a fairseq checkpoint: its `model` contains {name!r}, which is not a named tensor")
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu" or value.is_complex():
            raise InputError(f"{path} cannot be used: its {name} is not an ordinary dense tensor")
    size = sum(value.numel() * value.element_size() for value in weights.values())
    if size > _MOST_COPIES * Path(path).stat().st_size:
        raise InputError(
            f"{path} is not a fairseq checkpoint: its weights would take {size:,} bytes, many times the size of the file"
        )


def _entries(value: object, counted: dict[int, int]) -> int:
    """Number of entries in nested containers. A container that occurs several times counts each time, but is traversed once."""
    holder = vars(value) if isinstance(value, argparse.Namespace) else value
    items = holder.values() if isinstance(holder, dict) else holder
    if isinstance(value, (Tensor, str, bytes)) or not hasattr(items, "__iter__"):
        return 1
    if id(value) not in counted:
        counted[id(value)] = 1 + sum(_entries(item, counted) for item in items)
    return counted[id(value)]


def weights_alone(state: dict) -> dict:
    """The checkpoint without the optimizer's state and without moving averages of the weights."""
    result = {key: value for key, value in state.items() if key != "last_optimizer_state"}
    if isinstance(state.get("extra_state"), dict):
        result["extra_state"] = {key: value for key, value in state["extra_state"].items() if not key.startswith("ema")}
    return result


def stripped(state: dict) -> dict:
    """Weights and flags only, in a format that every fairseq since 0.10 loads."""
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    return {
        "args": state.get("args"),
        "cfg": state.get("cfg"),
        "model": state["model"],
        "optimizer_history": [history],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }


def save_checkpoint(state: dict, path: str | Path) -> None:
    """Write a checkpoint atomically: it appears under its name only when complete, and a failed write leaves no file."""
    try:
        with atomically(path) as partial:
            torch.save(state, partial)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error


def model_flags(state: dict, path: str | Path) -> argparse.Namespace:
    """The flags of the model in a checkpoint. Raises InputError if it has none.

    Flags that name a pretrained checkpoint are cleared: its weights are in this one, and it may be deleted.
    """
    with refusing(f"no model can be built from the flags in {path}"):
        cfg = state.get("cfg")
        flags = cfg.get("model") if cfg else state.get("args")
        flags = argparse.Namespace(**(flags if isinstance(flags, dict) else vars(flags or argparse.Namespace())))
    if getattr(flags, "arch", None) is None:
        flags.arch = getattr(flags, "_name", None)
    if not isinstance(flags.arch, str):
        raise InputError(f"{path} does not name its architecture; give a checkpoint of fairseq-train")
    refuse_retired(flags.arch, path)
    flags.load_pretrained_encoder_from = flags.load_pretrained_decoder_from = None
    return flags


def refuse_retired(arch: str | None, path: str | Path) -> None:
    """Raise InputError for a checkpoint of a removed architecture."""
    if arch and arch.startswith("s2t_low_rank_transformer"):
        raise InputError(
            f"{path} has --arch {arch}, which only version 0.1 supports; the same model can be trained with "
            "--arch s2t_residual_transformer --encoder-group-size 1 --encoder-residual-rank =R"
        )


def first_difference(loaded: dict[str, Tensor], expected: dict[str, Tensor], part: str = "encoder") -> str | None:
    """Description of the first difference that prevents loading `loaded` into a model with the state dict `expected`.

    Args:
        part: "encoder" or "decoder", the part to which the state dicts belong if their names lack its prefix.
    """
    if not loaded:
        return "it has no such part"
    for plan in (key for key in {**expected, **loaded} if key.endswith("shared_weights.layer_groups")):
        named = plan.partition(".")[0] if plan.startswith(("encoder.", "decoder.")) else part
        sharing = [_sharing(state.get(plan), named) for state in (loaded, expected)]
        if sharing[0] != sharing[1]:
            return f"it {sharing[0]}, this model {sharing[1]}"
    for key, value in expected.items():
        if key not in loaded:
            return f"it has no {key}"
        if loaded[key].shape != value.shape:
            return f"its {key} has shape {tuple(loaded[key].shape)}, this model's has {tuple(value.shape)}"
        if value.is_floating_point() != loaded[key].is_floating_point() and "layer_groups" not in key:
            return f"its {key} is {loaded[key].dtype}, this model's is {value.dtype}"
    extra = next((key for key in loaded if key not in expected), None)
    return f"it has {extra}, which this model lacks" if extra else None


def _sharing(groups: Tensor | None, part: str) -> str:
    if groups is None:
        return f"has a dense {part}"
    layers = "layers" if part == "encoder" else f"{part} layers"
    return f"shares its {layers} in groups {','.join(map(str, groups.round().int().tolist()))}"
