"""wav2vec 2.0, HuBERT, WavLM and data2vec, with a CTC head, a pre-training head, or no head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from residual_st.huggingface.kinds.kind import MASKED, Kind, through_base
from residual_st.huggingface.words import CtcWords, EncodedStates
from residual_st.stacks import KnownLayers
from residual_st.stacks.symmetries import Symmetry, attention_heads, feed_forward_units

if TYPE_CHECKING:
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

_PARTS = ("q_proj", "k_proj", "v_proj", "out_proj")


def _symmetries(layer: Any) -> list[Symmetry]:
    """Symmetries of a layer. A convolution adds positions to the first layer's input; WavLM's heads have biases by distance."""
    attention, units = layer.attention, layer.feed_forward
    positions = "biased" if hasattr(attention, "gru_rel_pos_linear") else "absolute"
    return [
        attention_heads("attention", attention.num_heads, _PARTS, positions),
        feed_forward_units("feed_forward.intermediate_dense", "feed_forward.output_dense", units.intermediate_act_fn),
    ]


@contextlib.contextmanager
def _projecting(layers: nn.ModuleList) -> Iterator[None]:
    """Make WavLM's attention call its projections; otherwise it passes their weights to torch's fused function.

    Also give each layer the position biases that the first layer computes and passes on, so that it can be called alone.
    """
    attentions: list[Any] = [module for module in layers.modules() if hasattr(module, "torch_multi_head_self_attention")]
    for attention in attentions:  # this attribute hides the class's method until it is deleted
        attention.torch_multi_head_self_attention = _attend.__get__(attention)
        attention.compute_bias = attentions[0].compute_bias
    try:
        yield
    finally:
        for attention in attentions:
            del attention.torch_multi_head_self_attention, attention.compute_bias


def _attend(attention: WavLMAttention, states: Tensor, mask: Tensor | None, bias: Tensor, *_rest) -> tuple[Tensor, None]:
    """Attention of states (batch, time, width), with a bias (batch x heads, time, time), where the mask (batch, time) is 1."""
    heads = attention.num_heads
    projected = (projection(states) for projection in (attention.q_proj, attention.k_proj, attention.v_proj))
    query, key, value = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in projected)
    bias = bias.unflatten(0, (-1, heads))
    if mask is not None:
        bias = bias.masked_fill(mask.ne(1)[:, None, None], -torch.inf)
    attended = nn.functional.scaled_dot_product_attention(query, key, value, bias)
    return attention.out_proj(attended.transpose(1, 2).flatten(2)), None


_FAMILIES = ("Wav2Vec2", "Hubert", "WavLM", "Data2VecAudio")

KIND = Kind(
    "wav2vec2",
    models={
        **{f"{family}ForCTC": CtcWords() for family in _FAMILIES},
        **{f"{family}Model": EncodedStates() for family in _FAMILIES},
        "Wav2Vec2ForPreTraining": EncodedStates(),
    },
    encoder=KnownLayers(
        layers=tuple(f"{family}EncoderLayer{norm}" for family in _FAMILIES for norm in ("", "StableLayerNorm")),
        symmetries=_symmetries,
        # small matrices: the gates of WavLM's biases, and adapters, which are loaded per language
        whole=("attention.gru_rel_pos_linear", "adapter_layer.linear_1", "adapter_layer.linear_2"),
        known={"observing": _projecting},
    ),
    encode=through_base,
    may_lack=MASKED,
)
