"""fairseq's Transformer encoder: `model.encoder.transformer_layers`, and other lists of its layers."""

import contextlib
import inspect
from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from residual_st.compat import drop_fused_copies
from residual_st.stacks.layer_stack import LayerStack
from residual_st.stacks.symmetries import symmetries_of


def find(model: nn.Module) -> LayerStack | None:
    encoder = getattr(model, "encoder", None)
    layers = getattr(encoder, "transformer_layers", None)
    return of_layers(layers, encoder) if isinstance(layers, nn.ModuleList) else None


def is_layer(module: nn.Module) -> bool:
    """Whether a module is called as fairseq's encoder layers are: hidden states (time, batch, width), mask (batch, time)."""
    return list(inspect.signature(module.forward).parameters)[:2] == ["x", "encoder_padding_mask"]


def of_layers(layers: nn.ModuleList, owner: nn.Module | None = None) -> LayerStack:
    return LayerStack(
        layers,
        owner,
        symmetries=symmetries_of(layers[0], ["self_attn"], layers[0].activation_fn),
        padding=_padding,
        prepare=drop_fused_copies,
        observing=lambda layers: projecting(layer.self_attn for layer in layers),
    )


def _padding(arguments: tuple, keywords: dict) -> Tensor | None:
    mask = keywords.get("encoder_padding_mask", arguments[1] if len(arguments) > 1 else None)
    return None if mask is None else mask.bool()


@contextlib.contextmanager
def projecting(attentions: Iterable[nn.Module]) -> Iterator[None]:
    """Have attention modules call their projections: fairseq's otherwise hand their weights to torch's fused function."""
    before = {attention: attention.skip_embed_dim_check for attention in attentions if hasattr(attention, "skip_embed_dim_check")}
    for attention in before:
        attention.skip_embed_dim_check = True
    try:
        yield
    finally:
        for attention, skips in before.items():
            attention.skip_embed_dim_check = skips
