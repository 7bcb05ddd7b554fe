"""fairseq's Transformer decoder: `model.decoder.layers`, and other lists of its layers."""

import inspect

from torch import Tensor, nn

from residual_st.stacks.generic import projecting
from residual_st.stacks.layer_stack import LayerStack
from residual_st.stacks.symmetries import symmetries_of

_ATTENTIONS = ("self_attn", "encoder_attn")


def find(model: nn.Module) -> LayerStack | None:
    decoder = getattr(model, "decoder", None)
    layers = getattr(decoder, "layers", None)
    return of_layers(layers, decoder) if isinstance(layers, nn.ModuleList) and len(layers) and is_layer(layers[0]) else None


def is_layer(module: nn.Module) -> bool:
    """Whether a module is called as fairseq's decoder layers are: states and encoder states (time, batch, width), mask, cache."""
    return list(inspect.signature(type(module).forward).parameters)[1:4] == ["x", "encoder_out", "encoder_padding_mask"]


def of_layers(layers: nn.ModuleList, owner: nn.Module | None = None) -> LayerStack:
    return LayerStack(
        layers,
        owner,
        symmetries=symmetries_of(layers[0], _ATTENTIONS, layers[0].activation_fn),
        padding=lambda _arguments, keywords: _boolean(keywords.get("self_attn_padding_mask")),
        memory_padding=lambda arguments, _keywords: _boolean(arguments[2]),
        memory_matrices=("encoder_attn.k_proj", "encoder_attn.v_proj"),
        observing=projecting,
    )


def _boolean(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.bool()
