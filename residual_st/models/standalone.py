"""A speech-to-text model from its flags alone, without a task or data."""

import argparse
from types import SimpleNamespace

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder, S2TTransformerModel

from residual_st.errors import InputError

# what the speech_to_text task adds to a model's flags
_TASK_FLAGS = {"input_feat_per_channel": 80, "input_channels": 1, "max_source_positions": 6000, "max_target_positions": 1024}


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
        return _model_class(flags.arch).build_model(_with_task(flags), SimpleNamespace(target_dictionary=dictionary))


def build_encoder(flags: argparse.Namespace) -> S2TTransformerEncoder:
    """Build the encoder alone of a model with these flags."""
    return _model_class(flags.arch).build_encoder(_with_task(flags))


def _with_task(flags: argparse.Namespace) -> argparse.Namespace:
    return argparse.Namespace(**{**_TASK_FLAGS, **vars(flags)})


def _model_class(arch: str) -> type[S2TTransformerModel]:
    model = ARCH_MODEL_REGISTRY.get(arch)
    if model is None or not issubclass(model, S2TTransformerModel):
        raise InputError(f"{arch!r} is not an s2t_transformer or s2t_residual_transformer of any size")
    return model
