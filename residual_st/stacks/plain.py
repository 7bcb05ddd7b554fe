"""A plain list of layers, called as `layer(x)`, or of fairseq's."""

from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.stacks import fairseq_decoder, fairseq_encoder
from residual_st.stacks.layer_stack import LayerStack


def find(model: nn.Module) -> LayerStack | None:
    if not isinstance(model, nn.ModuleList):
        return None
    for kind in (fairseq_encoder, fairseq_decoder):
        if len(model) and kind.is_layer(model[0]):
            return kind.of_layers(model)
    return LayerStack(model, padding=_refuse_masks)


def _refuse_masks(arguments: tuple, keywords: dict) -> None:
    """Raise InputError for what may be a mask: whether it is (batch, time) and what True means in it, the layers do not tell."""
    others = [value for value in (*arguments[1:], *keywords.values()) if isinstance(value, Tensor)]
    if len(arguments) + len(keywords) > 1 and others and not (not arguments and len(others) == 1):
        raise InputError("these layers are called with more than hidden states; say what is padding by a LayerStack")
