"""Symmetries of a layer: changes of its inner units that do not change its function.

The model's kind must define them: names do not show whether queries and keys are rotated by positions, or units are gated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class AttentionHeads:
    """Attention heads. The value and output basis of each head may be rotated. Names are those of the four matrices.

    Attributes:
        count: number of heads.
        permutable: whether heads may be permuted; not if they have other weights or positions of their own.
        query_key: whether the query and key basis may be rotated too; not if they are used for anything but their products.
    """

    query: str
    key: str
    value: str
    output: str
    count: int
    permutable: bool = True
    query_key: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return self.query, self.key, self.value, self.output


@dataclass(frozen=True)
class FeedForwardUnits:
    """Feed-forward units with an elementwise activation. They may be permuted and, if `scalable` (ReLU), scaled between the two
    matrices.
    """

    first: str
    second: str
    scalable: bool

    @property
    def names(self) -> tuple[str, ...]:
        return self.first, self.second


Symmetry = AttentionHeads | FeedForwardUnits

FAIRSEQ, ESPNET = ("q_proj", "k_proj", "v_proj", "out_proj"), ("linear_q", "linear_k", "linear_v", "linear_out")

# limits on symmetries by the attention's type of positions
_LIMITS: dict[str, dict[str, bool]] = {
    "absolute": {},  # only in the inputs
    "rotary": {"query_key": False},  # queries and keys are rotated in planes of their basis
    "relative": {"permutable": False, "query_key": False},  # a projection and biases for each head
    "relative_key": {"query_key": False},  # queries are multiplied by a vector per distance, the same for all heads
    "biased": {"permutable": False},  # added to each head's scores
}


def attention_heads(attention: str, count: int, parts: Sequence[str] = FAIRSEQ, positions: str = "absolute") -> AttentionHeads:
    """The heads of a layer's attention.

    Args:
        attention: name of the module in the layer.
        count: number of heads.
        parts: names of its query, key, value and output matrices: `FAIRSEQ`, `ESPNET` or others.
        positions: `absolute` for none in the attention itself; `rotary` if queries and keys are rotated (Su et al., arXiv
            2104.09864), but `absolute` if the attention's inputs are rotated, as in fairseq; `relative` if positions are projected
            for each head (Dai et al., arXiv 1901.02860); `relative_key` for a key per distance (Shaw et al., arXiv 1803.02155);
            `biased` if each head adds a bias per distance to its scores, as in WavLM (Chen et al., arXiv 2110.13900).
    """
    query, key, value, output = (f"{attention}.{part}" for part in parts)
    return AttentionHeads(query, key, value, output, count, **_LIMITS[positions])


def feed_forward_units(first: str, second: str, activation: Callable[..., object]) -> FeedForwardUnits:
    """The units between two matrices, with an elementwise activation: ReLU, GELU, SiLU (swish), but not GLU."""
    is_relu = activation in (torch.relu, nn.functional.relu) or isinstance(activation, nn.ReLU)
    return FeedForwardUnits(first, second, scalable=is_relu)


def symmetries_of(layer: nn.Module, attentions: Sequence[str], activation: Callable[..., object]) -> list[Symmetry]:
    """Symmetries of a Transformer layer with fairseq's or Hugging Face's names, if its projections are `nn.Linear`s.

    Some of fairseq's options forbid some symmetries: additional keys and values, a scale per head, a norm of the hidden units.

    Args:
        attentions: names of the attention modules, each with q_proj, k_proj, v_proj and out_proj.
        activation: activation of the feed-forward part, fc1 and fc2.
    """
    linears = {name for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    symmetries: list[Symmetry] = []
    for name in attentions:
        attention: Any = layer.get_submodule(name)  # of fairseq or transformers
        heads = attention_heads(name, attention.num_heads)
        if linears.issuperset(heads.names) and getattr(attention, "bias_k", None) is None and _lacks(layer, "c_attn"):
            symmetries.append(heads)
    if linears.issuperset(("fc1", "fc2")) and _lacks(layer, "ffn_layernorm"):
        symmetries.append(feed_forward_units("fc1", "fc2", activation))
    return symmetries


def _lacks(layer: nn.Module, part: str) -> bool:
    return getattr(layer, part, None) is None
