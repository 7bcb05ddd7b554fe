"""fairseq's Transformer encoder: `model.encoder.transformer_layers`, and other lists of its layers."""

import inspect

from torch import nn

from residual_st.stacks.generic import describe_stack
from residual_st.stacks.layer_stack import LayerStack
from residual_st.stacks.symmetries import symmetries_of


def find(model: nn.Module) -> LayerStack | None:
    encoder = getattr(model, "encoder", None)
    layers = getattr(encoder, "transformer_layers", None)
    return of_layers(layers, encoder) if isinstance(layers, nn.ModuleList) else None


def is_layer(module: nn.Module) -> bool:
    """Whether a module is called with states and mask as fairseq's Transformer layers are, and has their feed-forward part."""
    called_with = list(inspect.signature(type(module).forward).parameters)[1:3]  # not one that is wrapped
    return called_with == ["x", "encoder_padding_mask"] and hasattr(module, "fc1") and hasattr(module, "activation_fn")


def of_layers(layers: nn.ModuleList, owner: nn.Module | None = None) -> LayerStack:
    return describe_stack(layers, owner, symmetries=symmetries_of(layers[0], ["self_attn"], layers[0].activation_fn))
