"""Alike layers, one after another, and what must be known of them to share their matrices."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from residual_st.errors import InputError, refusing
from residual_st.sharing import ResidualLinear, SharedForm, deep_copy, matrices
from residual_st.stacks.layouts import STATES, Layouts
from residual_st.stacks.padding import Padding, no_padding, refuse_masks


def output_alone(output: Any) -> Tensor:
    """The output of a layer that returns a tensor, or a tuple whose first part is the output."""
    return output[0] if isinstance(output, tuple) else output


def nothing(layers: nn.ModuleList) -> None:
    """For stacks that need no preparation."""


def no_description(owner: nn.Module, form: SharedForm) -> None:
    """For models whose form is kept elsewhere, as fairseq's flags keep it."""


def no_context(layers: nn.ModuleList) -> contextlib.AbstractContextManager:
    """For layers that call each of their matrices."""
    return contextlib.nullcontext()


@dataclass(frozen=True)
class LayerStack:
    """A stack whose layers can share their matrices.

    Attributes:
        layers: alike layers, in the order in which they are called.
        owner: the module that gets the shared weights as `shared_weights`, where they are saved and moved with it; None where the
            caller registers them.
        symmetries: the units of a layer that may be renamed, `residual_st.compression.alignment.AttentionHeads` and
            `FeedForwardUnits`; none for layers that are compressed in the basis they have.
        padding: the mask (batch, time) in a layer's arguments and keywords, True where there is padding; None for no mask. By
            default every position counts, and a tensor besides the hidden states is refused.
        memory_matrices: names of matrices whose inputs are not of a layer's own positions but of those it attends to.
        memory_padding: the mask (batch, time) of these, as `padding`.
        output: the hidden states in what a layer returns.
        prepare: called with the layers before they share, to take away what stands in the way.
        on_sharing: called with the owner and the form, once the layers share, where the model is to remember it.
        observing: of the layers, a context in which they call each of their matrices, where they otherwise take its weight past it.
        layouts: what is found out about the shapes of states; copies of a stack have it in common.
    """

    layers: nn.ModuleList
    owner: nn.Module | None = None
    symmetries: Sequence = ()
    padding: Padding = refuse_masks
    memory_matrices: Sequence[str] = ()
    memory_padding: Padding = no_padding
    output: Callable[[Any], Tensor] = output_alone
    prepare: Callable[[nn.ModuleList], None] = nothing
    on_sharing: Callable[[nn.Module, SharedForm], None] = no_description
    observing: Callable[[nn.ModuleList], contextlib.AbstractContextManager] = no_context
    layouts: Layouts = field(default_factory=Layouts)

    def __post_init__(self):
        if not isinstance(self.layers, nn.Module):
            raise InputError(f"the layers are in a {type(self.layers).__name__}; give them in an nn.ModuleList")
        if not len(self.layers):
            raise InputError("there are no layers to share")
        known = [name for name, _ in matrices(self.layers[0])]
        for name in (name for symmetry in self.symmetries for name in symmetry.names):
            if name not in known:
                raise InputError(f"a {type(self.layers[0]).__name__} has no matrix {name}; it must be one of {', '.join(known)}")

    @property
    def uncovered(self) -> list[str]:
        """Names of a layer's weights of two dimensions and more that belong to no matrix: they stay as they are."""
        layer = self.layers[0]
        covered = {id(parameter) for _, linear in matrices(layer) for parameter in linear.parameters()}
        return [name for name, parameter in layer.named_parameters() if parameter.dim() > 1 and id(parameter) not in covered]

    @property
    def is_shared(self) -> bool:
        return any(isinstance(module, ResidualLinear) for module in self.layers.modules())

    def real_positions(self, states: Tensor, padding: Tensor | None, name: str = STATES) -> Tensor:
        """States or their gradients as (positions without padding, n).

        Args:
            states: (batch, time, n), (time, batch, n) or as `Layouts` knows them.
            padding: (batch, time).
            name: of the matrix that is given them; by default they are a layer's own.

        Raises:
            InputError: as `Layouts.rows` does.
        """
        return self.layouts.rows(name, states, padding)


def copied(model: nn.Module, stack: LayerStack) -> tuple[nn.Module, LayerStack]:
    """A copy of a model, and the stack inside it, whose list of layers need not be the model's own."""
    with refusing(f"{type(model).__name__} cannot be copied, to be compared with later"):
        copied_model, layers, owner = deep_copy((model, stack.layers, stack.owner))
    return copied_model, replace(stack, layers=layers, owner=owner)
