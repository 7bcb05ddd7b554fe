"""Moonshine, with samples as input and rotary positions of queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from residual_st.huggingface.kinds.kind import Kind
from residual_st.huggingface.words import DecodedWords
from residual_st.stacks import KnownLayers
from residual_st.stacks.symmetries import Symmetry, attention_heads, feed_forward_units

if TYPE_CHECKING:
    from transformers.models.moonshine.modeling_moonshine import MoonshineEncoderLayer


def _symmetries(layer: MoonshineEncoderLayer) -> list[Symmetry]:
    """Symmetries of a layer. If heads share keys, heads cannot be permuted."""
    attention, units = layer.self_attn, feed_forward_units("mlp.fc1", "mlp.fc2", layer.mlp.activation_fn)
    if attention.num_key_value_groups > 1:
        return [units]
    count = attention.q_proj.out_features // attention.head_dim
    return [attention_heads("self_attn", count, ("q_proj", "k_proj", "v_proj", "o_proj"), "rotary"), units]


KIND = Kind(
    "moonshine",
    models={"MoonshineForConditionalGeneration": DecodedWords()},
    encoder=KnownLayers(layers=("MoonshineEncoderLayer",), symmetries=_symmetries),
)
