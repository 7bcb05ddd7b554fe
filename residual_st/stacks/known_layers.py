"""Layers whose class is known: what a kind of model, of whatever library, says of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from residual_st.sharing import in_order, keep_whole
from residual_st.stacks.generic import describe_stack
from residual_st.stacks.layer_stack import LayerStack
from residual_st.stacks.symmetries import Symmetry


def no_symmetries(layer: nn.Module) -> Sequence[Symmetry]:
    """For layers whose units are not known well enough to be renamed."""
    return ()


@dataclass(frozen=True, kw_only=True)
class KnownLayers:
    """Layers of some classes.

    Attributes:
        layers: the classes, or their names, where the modules that hold them are to be imported by who uses them alone.
        symmetries: the units of a layer that may be renamed; never guessed from names: rotary and relative positions forbid some.
        whole: names of matrices that neither share nor shrink, where a layer has them.
        known: fields of a LayerStack that the names of a layer's arguments do not tell.
    """

    layers: tuple[type | str, ...] = ()
    symmetries: Callable[[nn.Module], Sequence[Symmetry]] = no_symmetries
    whole: Sequence[str] = ()
    known: Mapping = field(default_factory=dict)

    def knows(self, layer: nn.Module) -> bool:
        """Whether a layer is of one of the classes, or of one that is built on them."""
        return any(base in self.layers or base.__name__ in self.layers for base in type(layer).__mro__)

    def describe(self, layers: nn.ModuleList, owner: nn.Module | None, **more) -> LayerStack:
        """The stack of such layers in their owner, of others by what is found out about any, and with more fields of it."""
        if not self.knows(layers[0]):  # of a user dir, or of a variant
            return describe_stack(layers, owner, **more)
        for layer in in_order(layers):
            keep_whole(layer, self.whole)
        return describe_stack(layers, owner, **{"symmetries": self.symmetries(layers[0]), **self.known, **more})
