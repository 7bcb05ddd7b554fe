"""Descriptions of known classes of layers, from any library."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from residual_st.sharing import in_order, keep_whole
from residual_st.stacks.generic import describe_stack
from residual_st.stacks.layer_stack import LayerStack
from residual_st.stacks.symmetries import Symmetry


def no_symmetries(layer: nn.Module) -> Sequence[Symmetry]:
    """No symmetries, for layers whose units must not be aligned."""
    return ()


@dataclass(frozen=True, kw_only=True)
class KnownLayers:
    """Description of some classes of layers.

    Attributes:
        layers: the classes, or their names to avoid importing their modules.
        symmetries: the units of a layer that may be aligned; never guessed from names, since rotary and relative positions forbid
            some.
        whole: names of matrices that are neither shared nor compressed, if a layer has them.
        known: fields of a LayerStack that cannot be derived from the names of a layer's arguments.
    """

    layers: tuple[type | str, ...] = ()
    symmetries: Callable[[Any], Sequence[Symmetry]] = no_symmetries
    whole: Sequence[str] = ()
    known: Mapping[str, Any] = field(default_factory=dict)

    def knows(self, layer: nn.Module) -> bool:
        """Whether a layer is an instance of one of the classes or of a subclass."""
        return any(base in self.layers or base.__name__ in self.layers for base in type(layer).__mro__)

    def describe(self, layers: nn.ModuleList, owner: nn.Module | None, **more: Any) -> LayerStack:
        """The stack of such layers in their owner, or of other layers by `describe_stack`; `more` are further fields."""
        if not self.knows(layers[0]):  # of a user dir, or of a variant
            return describe_stack(layers, owner, **more)
        for layer in in_order(layers):
            keep_whole(layer, self.whole)
        return describe_stack(layers, owner, **{"symmetries": self.symmetries(layers[0]), **self.known, **more})
