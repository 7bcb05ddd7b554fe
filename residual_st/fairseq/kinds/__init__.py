"""Kinds of fairseq models: one file each, the only place with the names of the kind's parts.

To add one, write a file with a `Kind` and name it here.
"""

from fairseq.models import MODEL_REGISTRY
from torch import nn

from residual_st.errors import InputError
from residual_st.fairseq.kinds import (
    convtransformer,
    emformer,
    other,
    s2t_conformer,
    s2t_transformer,
    s2ut_transformer,
    transformer,
    wav2vec,
    xm_transformer,
)
from residual_st.fairseq.kinds.kind import EncoderParts, Kind, Part, owns_shared_weights
from residual_st.stacks import LayerStack, describe_stack

__all__ = [
    "KINDS",
    "EncoderParts",
    "Kind",
    "Part",
    "kind_of",
    "owns_shared_weights",
    "part_of",
    "stack_of",
    "stack_of_layers",
    "stacks_of",
]

KINDS = (
    s2t_transformer.KIND,
    s2t_conformer.KIND,
    convtransformer.KIND,
    emformer.KIND,
    s2ut_transformer.KIND,
    xm_transformer.KIND,
    wav2vec.CTC,
    wav2vec.SEQ2SEQ,
    transformer.KIND,
)


def kind_of(model_class: type) -> Kind:
    """The kind of a model class: that of its nearest known base class, or `other`."""
    for base in model_class.__mro__:
        for kind in KINDS:
            if base in (MODEL_REGISTRY.get(name) for name in kind.models):
                return kind
    return other.KIND


def part_of(model: nn.Module, name: str) -> Part:
    """The encoder or the decoder of a model's kind, if the model has it.

    A user dir's subclass of a known model may have a different encoder, which is then treated like that of an unknown model.
    """
    part = kind_of(type(model)).part(name)
    if part is not None and part.find(model) is not None:
        return part
    return other.ENCODER if name == "encoder" else other.DECODER


def stack_of(model: nn.Module, part: str = "encoder") -> LayerStack:
    """The layers of a fairseq model's encoder or decoder.

    Raises:
        InputError: if it has no stack of layers of one class.
    """
    path_and_stack = part_of(model, part).find(model)
    if path_and_stack is None:
        raise InputError(f"{type(model).__name__} has no {part} with two or more layers of one class that contain matrices")
    return path_and_stack[1]


def stacks_of(model: nn.Module) -> dict[str, LayerStack]:
    """The layers of a model's encoder and decoder, if it has them. If some layers share, these are returned."""
    parts = {part: part_of(model, part).find(model) for part in ("encoder", "decoder")}
    return {part: stack[1] for part, stack in parts.items() if stack is not None}


def stack_of_layers(layers: nn.ModuleList) -> LayerStack:
    """The stack of a list of fairseq's layers. Its units may be aligned if the layers' class is known."""
    parts = [part for kind in KINDS for part in (kind.encoder, kind.decoder) if part is not None]
    known = next((part for part in parts if part.knows(layers[0])), None)
    return describe_stack(layers) if known is None else known.describe(layers, None)
