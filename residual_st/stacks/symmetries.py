"""What may be renamed inside a layer without a change of what it computes."""

from dataclasses import dataclass

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


def heads_of(layer: nn.Module, attention: str, heads: int, output: str = "out_proj") -> list[AttentionHeads]:
    """The heads of an attention module with projections of its own; none where one of them is no `nn.Linear`."""
    names = [f"{attention}.{name}" for name in ("q_proj", "k_proj", "v_proj", output)]
    linears = dict(layer.named_modules())
    return [AttentionHeads(*names, heads)] if all(isinstance(linears.get(name), nn.Linear) for name in names) else []


def units_of(layer: nn.Module, first: str, second: str, scalable: bool) -> list[FeedForwardUnits]:
    """The hidden units between two matrices; none where one of them is no `nn.Linear`."""
    linears = dict(layer.named_modules())
    return (
        [FeedForwardUnits(first, second, scalable)] if all(isinstance(linears.get(n), nn.Linear) for n in (first, second)) else []
    )
