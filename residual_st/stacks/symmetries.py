"""What may be renamed inside a layer without a change of what it computes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class AttentionHeads:
    """Heads may be permuted, and each head's query/key and value/output bases rotated. Names are those of the four matrices."""

    query: str
    key: str
    value: str
    output: str
    count: int


@dataclass(frozen=True)
class FeedForwardUnits:
    """Hidden units may be permuted, and, where `scalable` (under ReLU), scaled between the two matrices."""

    first: str
    second: str
    scalable: bool


Symmetry = AttentionHeads | FeedForwardUnits


def symmetries_of(layer: nn.Module, attentions: Sequence[str], activation: Callable) -> list[Symmetry]:
    """Of a layer with projections named as fairseq's and Hugging Face's are, where these are all `nn.Linear`s.

    Args:
        attentions: names of the attention modules, each with q_proj, k_proj, v_proj and out_proj.
        activation: of the feed-forward part, fc1 and fc2.
    """
    linears = {name for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    found = []
    for attention in attentions:
        names = [f"{attention}.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")]
        if linears.issuperset(names):
            found.append(AttentionHeads(*names, layer.get_submodule(attention).num_heads))
    if linears.issuperset(("fc1", "fc2")):
        relu = activation in (torch.relu, nn.functional.relu) or isinstance(activation, nn.ReLU)
        found.append(FeedForwardUnits("fc1", "fc2", scalable=relu))
    return found
