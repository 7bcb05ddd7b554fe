"""What may be renamed inside a layer without a change of what it computes.

A kind of model says what its layers have: names do not tell whether positions are turned into queries and keys, or units are gated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class AttentionHeads:
    """Attention whose value and output bases may be rotated inside each head. Names are those of the four matrices.

    Attributes:
        count: of heads.
        permutable: whether heads may change places: not where each has weights or positions besides these matrices.
        query_key: whether query and key bases may be rotated, too: not where anything but their products is made of them.
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
    """Hidden units, each through one function of itself, may be permuted, and, where `scalable` (under ReLU), scaled between the
    two matrices.
    """

    first: str
    second: str
    scalable: bool

    @property
    def names(self) -> tuple[str, ...]:
        return self.first, self.second


Symmetry = AttentionHeads | FeedForwardUnits

FAIRSEQ, ESPNET = ("q_proj", "k_proj", "v_proj", "out_proj"), ("linear_q", "linear_k", "linear_v", "linear_out")

# of the positions that an attention knows: what may be renamed
_LIMITS = {
    "absolute": {},  # they are in its inputs alone
    "rotary": {"query_key": False},  # queries and keys are turned by them, in planes of their basis
    "relative": {"permutable": False, "query_key": False},  # they have a projection and biases for each head
    "relative_key": {"query_key": False},  # queries are multiplied with a row for each distance, the same for all heads
    "biased": {"permutable": False},  # each head's scores are added to by it
}


def attention_heads(attention: str, count: int, parts: Sequence[str] = FAIRSEQ, positions: str = "absolute") -> AttentionHeads:
    """The heads of a layer's attention.

    Args:
        attention: name of the module in the layer.
        count: of heads.
        parts: names of its query, key, value and output matrices: `FAIRSEQ`, `ESPNET` or others.
        positions: `absolute` where it knows none; `rotary` where they turn queries and keys (Su et al., arXiv 2104.09864), not the
            attention's inputs, as in fairseq, which is `absolute`; `relative` where they are projected for each head (Dai et al.,
            arXiv 1901.02860); `relative_key` where queries meet a key for each distance (Shaw et al., arXiv 1803.02155); `biased`
            where each head adds a number for each distance to its scores, as WavLM (Chen et al., arXiv 2110.13900).
    """
    return AttentionHeads(*(f"{attention}.{part}" for part in parts), count, **_LIMITS[positions])


def feed_forward_units(first: str, second: str, activation: Callable) -> FeedForwardUnits:
    """The units between two matrices, under a function of each unit for itself: ReLU, GELU, SiLU (swish), but not GLU."""
    is_relu = activation in (torch.relu, nn.functional.relu) or isinstance(activation, nn.ReLU)
    return FeedForwardUnits(first, second, scalable=is_relu)


def symmetries_of(layer: nn.Module, attentions: Sequence[str], activation: Callable) -> list[Symmetry]:
    """Of a Transformer layer with projections named as fairseq's and Hugging Face's are, where these are all `nn.Linear`s.

    What fairseq can put between them forbids some: keys and values beside those of the positions, a scale of each head, a norm of
    the hidden units.

    Args:
        attentions: names of the attention modules, each with q_proj, k_proj, v_proj and out_proj.
        activation: of the feed-forward part, fc1 and fc2.
    """
    linears = {name for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    found = []
    for name in attentions:
        attention = layer.get_submodule(name)
        heads = attention_heads(name, attention.num_heads)
        if linears.issuperset(heads.names) and getattr(attention, "bias_k", None) is None and _lacks(layer, "c_attn"):
            found.append(heads)
    if linears.issuperset(("fc1", "fc2")) and _lacks(layer, "ffn_layernorm"):
        found.append(feed_forward_units("fc1", "fc2", activation))
    return found


def _lacks(layer: nn.Module, part: str) -> bool:
    return getattr(layer, part, None) is None
