"""transformers' Conformer layers, of any model."""

from typing import Any

from torch import Tensor

from residual_st.stacks import KnownLayers
from residual_st.stacks.padding import unattended
from residual_st.stacks.symmetries import ESPNET, Symmetry, attention_heads, feed_forward_units

# transformers' names. Rotary positions rotate the attention's inputs, not its queries and keys
_POSITIONS = {None: "absolute", "rotary": "absolute", "relative": "relative", "relative_key": "relative_key"}


def _symmetries(layer: Any) -> list[Symmetry]:
    attention = layer.self_attn
    halves = [
        feed_forward_units(f"{name}.intermediate_dense", f"{name}.output_dense", getattr(layer, name).intermediate_act_fn)
        for name in ("ffn1", "ffn2")
    ]
    return [attention_heads("self_attn", attention.num_heads, ESPNET, _POSITIONS[attention.position_embeddings_type]), *halves]


def _padding(_arguments: tuple, keywords: dict) -> Tensor | None:
    """The mask of the convolutions; attention's mask may be chunked and does not show the padding."""
    mask = keywords.get("conv_attention_mask")
    return None if mask is None else unattended(mask)


def known_conformers(name: str, masks_convolutions: bool = True) -> KnownLayers:
    """Layers of the class `name`, which pass a mask to their convolutions or let them read padding."""
    known = {"padding": _padding} if masks_convolutions else {}
    return KnownLayers(layers=(name,), symmetries=_symmetries, known=known)
