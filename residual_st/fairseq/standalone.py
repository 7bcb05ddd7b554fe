"""A speech-to-text model from its flags or its checkpoint alone, without a task or data."""

import argparse
import re
from pathlib import Path
from types import SimpleNamespace

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder, S2TTransformerModel
from torch import Tensor

from residual_st.compat import drop_fused_copies, reconcile_versions
from residual_st.errors import InputError, refusing
from residual_st.fairseq.checkpoints import dictionary_size, first_difference, load_checkpoint, model_flags
from residual_st.fairseq.user_dir import register

_MODELS = ("s2t_transformer", "s2t_residual_transformer")  # fairseq's conformer is a subclass, too
_LONGEST_FLAG = 10_000  # characters; lists of ranks are the longest
_MOST_POSITIONS = 100_000  # an encoder keeps a table of them
# what the speech_to_text task adds to a model's flags, and what older checkpoints may hold as None
_TASK_FLAGS = {
    "input_feat_per_channel": 80,
    "input_channels": 1,
    "max_source_positions": 6000,
    "max_target_positions": 1024,
    "encoder_freezing_updates": 0,
}


def parse_model_flags(arch: str, arguments: list[str]) -> argparse.Namespace:
    """The flags of a model as fairseq-train would complete them. Raises InputError for an unknown architecture or flag."""

    def refuse(message: str):
        raise InputError(f"--arch {arch}: {message}")

    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    parser.error = refuse
    _model_class(arch).add_args(parser)
    flags = parser.parse_args(arguments)
    flags.arch = arch
    ARCH_CONFIG_REGISTRY[arch](flags)
    return flags


def build_model(flags: argparse.Namespace, vocabulary_size: int | None = None, device: str = "cpu") -> S2TTransformerModel:
    """Build a model on a device; on "meta" it has shapes and no memory behind them.

    Args:
        flags: completed by `parse_model_flags`, or those of a checkpoint.
        vocabulary_size: target words, special ones included; None for the `tgt_dict_size` of a checkpoint's flags.

    Raises:
        InputError: if the architecture is not an `s2t_transformer`, stock or residual.
    """
    dictionary = Dictionary()
    for index in range((vocabulary_size or flags.tgt_dict_size) - len(dictionary)):
        dictionary.add_symbol(str(index))
    with torch.device(device):
        return _model_class(flags.arch).build_model(with_task_flags(flags), SimpleNamespace(target_dictionary=dictionary))


def load_model(path: str | Path, as_stored: bool = False) -> tuple[dict, S2TTransformerModel]:
    """A checkpoint, of a dense or residual model, and the model in it, in evaluation mode.

    Args:
        as_stored: keep the file's precision; otherwise the model is float32.

    Raises:
        InputError: if the file cannot be read, is of another architecture, or does not hold what its flags describe.
    """
    state = load_checkpoint(path)
    flags, weights = model_flags(state, path), dict(state["model"])
    with refusing(f"{path} holds flags of which no model can be made"):
        _check_extents(flags, weights)
        _check_weights(weights, build_model(flags, dictionary_size(state), "meta"), path)  # takes no memory, whatever the flags say
        model = build_model(flags, dictionary_size(state))
    drop_fused_copies(model.encoder.transformer_layers)
    if as_stored:
        model.to(next(value.dtype for value in weights.values() if value.is_floating_point()))
    model.load_state_dict(weights)
    return state, model.eval()


def _check_weights(weights: dict[str, Tensor], model: S2TTransformerModel, path: str | Path) -> None:
    """Bring weights to this version's names, in place. Raises InputError where they are not a model's, or not finite."""
    drop_fused_copies(model.encoder.transformer_layers)
    expected = model.state_dict()
    reconcile_versions(weights, expected)
    difference = first_difference(weights, expected)
    if difference:
        raise InputError(f"{path} does not hold the model that its flags describe: {difference}")
    # what has no bearing on the model is left as it is in memory that nobody has written to
    broken = next(
        (name for name, value in weights.items() if not name.endswith("_float_tensor") and not value.isfinite().all()), None
    )
    if broken:
        raise InputError(f"{path} has weights that are not finite numbers: {broken}; its training must have diverged")


def _check_extents(flags: argparse.Namespace, weights: dict[str, Tensor]) -> None:
    """Raise InputError where flags ask for more than the weights can be of, in what takes time or memory to build."""
    for part in ("encoder", "decoder"):
        found = {match[1] for name in weights if (match := re.match(rf"{part}\.(?:transformer_)?layers\.(\d+)\.", name))}
        if getattr(flags, f"{part}_layers") != len(found):
            raise InputError(f"{part}_layers={getattr(flags, f'{part}_layers')}, and there are {len(found)} such layers")
    for name, value in vars(flags).items():
        if isinstance(value, str) and len(value) > _LONGEST_FLAG:
            raise InputError(f"{name} is longer than {_LONGEST_FLAG:,} characters")
    for name in ("max_source_positions", "max_target_positions"):
        if (getattr(flags, name, None) or 0) > _MOST_POSITIONS:
            raise InputError(f"{name} is more than {_MOST_POSITIONS:,}")


def build_encoder(flags: argparse.Namespace) -> S2TTransformerEncoder:
    """Build the encoder alone of a model with these flags."""
    return _model_class(flags.arch).build_encoder(with_task_flags(flags))


def with_task_flags(flags: argparse.Namespace) -> argparse.Namespace:
    """A model's flags with what the speech_to_text task adds to them, where they lack it."""
    given = {name: value for name, value in vars(flags).items() if value is not None or name not in _TASK_FLAGS}
    return argparse.Namespace(**{**_TASK_FLAGS, **given})


def _model_class(arch: str) -> type[S2TTransformerModel]:
    register()
    model = ARCH_MODEL_REGISTRY.get(arch)
    if ARCH_MODEL_NAME_REGISTRY.get(arch) not in _MODELS:
        raise InputError(f"{arch!r} is not an s2t_transformer or s2t_residual_transformer of any size, which alone are known here")
    return model
