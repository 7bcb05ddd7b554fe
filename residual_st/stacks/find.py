"""The stack of a model that is known by how it is built."""

from torch import nn

from residual_st.errors import InputError
from residual_st.stacks import fairseq_decoder, fairseq_encoder, hugging_face, plain
from residual_st.stacks.layer_stack import LayerStack

_KINDS = {"encoder": (plain, fairseq_encoder, hugging_face), "decoder": (fairseq_decoder,)}


def stack_of(model: nn.Module, part: str = "encoder") -> LayerStack:
    """The stack of layers of a model.

    Args:
        model: a fairseq speech-to-text model, Hugging Face's Whisper or Speech2Text, or a plain `nn.ModuleList`.
        part: "encoder", or "decoder", of a fairseq model.

    Raises:
        InputError: for another model; a `LayerStack` describes the stack of any.
    """
    for kind in _KINDS[part]:
        stack = kind.find(model)
        if stack is not None:
            return stack
    raise InputError(f"{type(model).__name__} has no stack of {part} layers that is known here; describe it by a LayerStack")
