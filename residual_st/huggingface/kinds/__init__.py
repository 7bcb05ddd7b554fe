"""Kinds of Hugging Face models: one file each, the only place with the names of the kind's parts.

To add one, write a file with a `Kind` and name it here.
"""

import contextlib
from functools import cache, partial

import transformers
from torch import nn

from residual_st.errors import InputError
from residual_st.huggingface.description import describe_sharing
from residual_st.huggingface.kinds import (
    moonshine,
    qwen2_audio,
    seamless_m4t_v2,
    speech2text,
    speech_encoder_decoder,
    wav2vec2,
    wav2vec2_bert,
    wav2vec2_conformer,
    whisper,
)
from residual_st.huggingface.kinds.kind import Kind
from residual_st.huggingface.words import OwnWords
from residual_st.stacks import KnownLayers, LayerStack, describe_stack

__all__ = ["KINDS", "PARTS", "Kind", "kind_of", "models", "stack_of", "stack_of_layers", "stacks_of", "words_of"]

PARTS = ("encoder", "decoder")
KINDS = (
    whisper.KIND,
    speech2text.KIND,
    wav2vec2.KIND,
    wav2vec2_conformer.KIND,
    wav2vec2_bert.KIND,
    seamless_m4t_v2.KIND,
    moonshine.KIND,
    qwen2_audio.KIND,
    speech_encoder_decoder.KIND,
)


@cache
def models() -> list[str]:
    """Names of the supported classes of whole models that the installed transformers has."""
    there = dir(transformers)  # without importing unused models
    return [name for kind in KINDS for name in kind.models if name in there]


def kind_of(model: nn.Module) -> Kind:
    """The kind of a whole model or of a subclass.

    Raises:
        InputError: for an unknown kind.
    """
    return _known(model)[0]


def words_of(model: nn.Module) -> OwnWords:
    """How a whole model generates its own words. Raises InputError, see `kind_of`."""
    return _known(model)[1]


def _known(model: nn.Module) -> tuple[Kind, OwnWords]:
    for base in type(model).__mro__:
        for kind in KINDS:
            if base.__name__ in kind.models:
                return kind, kind.models[base.__name__]
    raise InputError(f"{type(model).__name__} is not supported; it must be one of {', '.join(models())}")


def stack_of(model: transformers.PreTrainedModel, part: str = "encoder") -> LayerStack:
    """The stack of a part of a whole model, with or without head, or of the encoder or decoder itself.

    Raises:
        InputError: for a model of an unknown kind or without that part.
    """
    for name, layers in model.named_modules():
        if isinstance(layers, nn.ModuleList) and len(layers) and (known := _known_layers(layers, part)):
            owner = model.get_submodule(name.rpartition(".")[0])
            return known.describe(layers, owner, on_sharing=partial(describe_sharing, model.config, part))
    raise InputError(f"{type(model).__name__} has no known stack of {part} layers; describe it by a LayerStack")


def stacks_of(model: transformers.PreTrainedModel) -> dict[str, LayerStack]:
    """The known stacks of a model's encoder and decoder."""
    stacks = {}
    for part in PARTS:
        with contextlib.suppress(InputError):
            stacks[part] = stack_of(model, part)
    return stacks


def stack_of_layers(layers: nn.ModuleList) -> LayerStack:
    """The stack of a list of layers. Its units may be permuted if the layers' class is known."""
    known = next(filter(None, (_known_layers(layers, part) for part in PARTS)), None)
    return known.describe(layers, None) if known else describe_stack(layers)


def _known_layers(layers: nn.ModuleList, part: str) -> KnownLayers | None:
    known = (getattr(kind, part) for kind in KINDS) if part in PARTS else ()
    return next((one for one in known if one is not None and one.knows(layers[0])), None)
