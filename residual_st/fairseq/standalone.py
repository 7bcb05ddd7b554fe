"""Building a model from its flags or its checkpoint only, without a task or data."""

import argparse
import contextlib
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import fairseq.models
import torch
from fairseq.data import Dictionary
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_NAME_REGISTRY,
    ARCH_MODEL_REGISTRY,
    MODEL_DATACLASS_REGISTRY,
    BaseFairseqModel,
)
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder
from omegaconf import OmegaConf
from torch import Tensor
from torch.overrides import TorchFunctionMode

from residual_st.compat import drop_fused_copies, reconcile_versions
from residual_st.errors import InputError, refusing
from residual_st.fairseq.checkpoints import first_difference, load_checkpoint, model_flags
from residual_st.fairseq.flags import PARTS
from residual_st.fairseq.kinds import Kind, kind_of, stacks_of
from residual_st.fairseq.user_dir import register

_LONGEST_FLAG = 10_000  # maximum characters of a flag; lists of ranks are the longest
_MOST_POSITIONS = 100_000  # maximum number of positions; an encoder stores a table of them
# added to a model's flags by the speech_to_text task and fairseq-train, and None in some older checkpoints
_TASK_FLAGS = {
    "input_feat_per_channel": 80,
    "input_channels": 1,
    "max_source_positions": 6000,
    "max_target_positions": 1024,
    "encoder_freezing_updates": 0,
    "fp16": False,
}


class _Parser(argparse.ArgumentParser):
    """A parser that raises InputError instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}")


def parse_model_flags(arch: str, arguments: list[str]) -> argparse.Namespace:
    """The flags of a model, completed like in fairseq-train. Raises InputError for an unknown architecture or flag."""
    parser = _Parser(f"--arch {arch}", argument_default=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    _model_class(arch).add_args(parser)
    flags = parser.parse_args(arguments)
    flags.arch = arch
    ARCH_CONFIG_REGISTRY[arch](flags)
    return flags


def build_model(flags: argparse.Namespace, vocabulary_size: int | None = None, device: str = "cpu") -> BaseFairseqModel:
    """Build a model on a device; on "meta" it has shapes but takes no memory.

    Args:
        flags: flags from `parse_model_flags` or from a checkpoint.
        vocabulary_size: number of target words, including special ones; None for `tgt_dict_size` in a checkpoint's flags.

    Raises:
        InputError: if the architecture is unknown.
    """
    _model_class(flags.arch)
    words = vocabulary_size or flags.tgt_dict_size
    task = SimpleNamespace(
        args=argparse.Namespace(**{"target_is_code": True, **vars(flags)}),  # for translation into units
        multitask_tasks={},
        source_dictionary=_dictionary(getattr(flags, "src_dict_size", None) or words),
        speaker_to_id=None,
        state_dict=lambda: {"dictionaries": [_dictionary(getattr(flags, "clusters", None) or words)]},  # for HuBERT
        target_dictionary=_dictionary(words),
        tgt_dict=_dictionary(words),
    )
    name = ARCH_MODEL_NAME_REGISTRY[flags.arch]
    config = OmegaConf.create({**vars(flags), "_name": name}) if name in MODEL_DATACLASS_REGISTRY else with_task_flags(flags)
    # fairseq prints the pretrained model that another one is built on, but our standard output may be JSON
    with contextlib.redirect_stdout(io.StringIO()), torch.device(device), _WithoutCopies():
        return fairseq.models.build_model(config, task, from_checkpoint=True)


class _WithoutCopies(TorchFunctionMode):
    """Skips copies of meta tensors to the CPU, in which fairseq draws the weights of wav2vec 2.0 and HuBERT."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function is Tensor.cpu and arguments[0].is_meta:
            return arguments[0]
        return function(*arguments, **(keywords or {}))


def _dictionary(words: int) -> Dictionary:
    dictionary = Dictionary()
    for index in range(words - len(dictionary)):
        dictionary.add_symbol(str(index))
    return dictionary


def load_model(path: str | Path, as_stored: bool = False) -> tuple[dict, BaseFairseqModel]:
    """A checkpoint of a dense or shared model, and its model in evaluation mode.

    Args:
        as_stored: keep the file's precision; otherwise the model is float32.

    Raises:
        InputError: if the file cannot be read, has an unknown architecture, or does not match its flags.
    """
    state = load_checkpoint(path)
    flags, weights = model_flags(state, path), dict(state["model"])
    with refusing(f"no model can be built from the flags in {path}"):
        flags.tgt_dict_size = dictionary_size(state)
        flags.src_dict_size = _rows(state, _kind(state).source_words)
        flags.clusters = _rows(state, _kind(state).clusters)
        _check_extents(flags, weights)
        _check_weights(
            weights, build_model(flags, device="meta"), path
        )  # on "meta", since the flags could describe a model of any size
        model = build_model(flags)
    _drop_fused_copies(model)
    if as_stored:
        model.to(next(value.dtype for value in weights.values() if value.is_floating_point()))
    model.load_state_dict(weights)
    return state, model.eval()


def dictionary_size(state: dict) -> int:
    """Number of target words of a checkpoint's model, including special ones. Raises InputError for a model without any."""
    kind = _kind(state)
    rows = _rows(state, kind.target_words)
    if rows is None:
        raise InputError(f"the checkpoint has no {kind.target_words}; it must be a model with text output")
    return rows


def _kind(state: dict) -> Kind:
    return kind_of(_model_class(model_flags(state, "the checkpoint").arch))


def is_fed_samples(state: dict) -> bool:
    """Whether a checkpoint's model takes samples as input, instead of frames or words."""
    return _kind(state).of_samples


def _rows(state: dict, name: str | None) -> int | None:
    return len(state["model"][name]) if name in state["model"] else None


def _drop_fused_copies(model: BaseFairseqModel) -> None:
    for stack in stacks_of(model).values():
        drop_fused_copies(stack.layers)


def _check_weights(weights: dict[str, Tensor], model: BaseFairseqModel, path: str | Path) -> None:
    """Rename weights for this fairseq version, in place. Raises InputError if they do not fit the model or are not finite."""
    _drop_fused_copies(model)
    expected = model.state_dict()
    reconcile_versions(weights, expected)
    difference = first_difference(weights, expected)
    if difference:
        raise InputError(f"the weights in {path} do not match its flags: {difference}")
    # entries without effect on the model may be uninitialised memory
    broken = next(
        (name for name, value in weights.items() if not name.endswith("_float_tensor") and not value.isfinite().all()), None
    )
    if broken:
        raise InputError(f"{path} has weights that are not finite numbers: {broken}; its training has probably diverged")


def _check_extents(flags: argparse.Namespace, weights: dict[str, Tensor]) -> None:
    """Raise InputError if flags describe a larger model than the weights, which would take time or memory to build."""
    kind = kind_of(_model_class(flags.arch))
    for name in PARTS:
        part, layers = kind.part(name), getattr(flags, f"{name}_layers", None)
        if part is None or layers is None:
            continue
        layer = re.compile(
            rf"{re.escape(part.root)}\.(?:\w+\.)*?(?!conv_)\w*layers\.(\d+)\."
        )  # excludes the subsampler's convolutions
        numbers = {match[1] for key in weights if (match := layer.match(key))}
        if layers != len(numbers):
            raise InputError(f"{name}_layers={layers}, but the checkpoint has {len(numbers)} such layers")
    for name, value in vars(flags).items():
        if isinstance(value, str) and len(value) > _LONGEST_FLAG:
            raise InputError(f"{name} has more than {_LONGEST_FLAG:,} characters")
    for name in ("max_source_positions", "max_target_positions"):
        if (getattr(flags, name, None) or 0) > _MOST_POSITIONS:
            raise InputError(f"{name} is more than {_MOST_POSITIONS:,}")


def build_encoder(flags: argparse.Namespace) -> S2TTransformerEncoder:
    """Build only the encoder of a model with these flags."""
    return _model_class(flags.arch).build_encoder(with_task_flags(flags))


def with_task_flags(flags: argparse.Namespace) -> argparse.Namespace:
    """A model's flags, with missing flags of the speech_to_text task added."""
    given = {name: value for name, value in vars(flags).items() if value is not None or name not in _TASK_FLAGS}
    return argparse.Namespace(**{**_TASK_FLAGS, **given})


def _model_class(arch: str) -> type[BaseFairseqModel]:
    register()
    model = ARCH_MODEL_REGISTRY.get(arch)
    if model is None:
        raise InputError(f"architecture {arch!r} is not known; name the user dir that registers it with --user-dir")
    return model
