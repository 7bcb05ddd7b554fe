"""Stacks of layers with the same structure, and the information needed to share their matrices."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from residual_st.errors import InputError, refusing
from residual_st.sharing import ResidualLinear, SharedForm, SharedWeights, current_form, deep_copy, matrices, unshare_layers
from residual_st.stacks.layouts import STATES, Layouts
from residual_st.stacks.padding import Padding, no_padding, refuse_masks
from residual_st.stacks.symmetries import Symmetry


def output_alone(output: Any) -> Tensor:
    """The output of a layer that returns a tensor, or a tuple whose first element is the output."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def nothing(layers: nn.ModuleList) -> None:
    """No preparation."""


def no_description(owner: nn.Module, form: SharedForm) -> None:
    """No description, for models whose form is stored elsewhere, such as in fairseq's flags."""


def no_context(layers: nn.ModuleList) -> contextlib.AbstractContextManager[object]:
    """No context, for layers that call each of their matrices."""
    return contextlib.nullcontext()


@dataclass(frozen=True)
class LayerStack:
    """A stack whose layers can share their matrices.

    Attributes:
        layers: layers with the same structure, in the order of their calls.
        owner: the module that gets the shared weights as `shared_weights`, so that they are saved and moved with it; None if the
            caller registers them.
        symmetries: the units of a layer that may be aligned, `residual_st.stacks.symmetries.AttentionHeads` and
            `FeedForwardUnits`; empty for layers that are compressed without alignment.
        padding: function (arguments, keywords of a layer) -> mask (batch, time), True for padding, or None for no mask. By default
            every position counts, and any tensor besides the hidden states is refused.
        memory_matrices: names of matrices whose inputs are positions of the attended states instead of the layer's own.
        memory_padding: the mask (batch, time) of these, like `padding`.
        output: function (return value of a layer) -> hidden states.
        prepare: called with the layers before they share, to remove obstacles.
        on_sharing: see `record`.
        observing: function (layers) -> context in which they call each of their matrices instead of reading its weight.
        layouts: known layouts of states; copies of a stack share it.
    """

    layers: nn.ModuleList
    owner: nn.Module | None = None
    symmetries: Sequence[Symmetry] = ()
    padding: Padding = refuse_masks
    memory_matrices: Sequence[str] = ()
    memory_padding: Padding = no_padding
    output: Callable[[Any], Tensor] = output_alone
    prepare: Callable[[nn.ModuleList], None] = nothing
    on_sharing: Callable[[nn.Module, SharedForm], None] = no_description
    observing: Callable[[nn.ModuleList], contextlib.AbstractContextManager[object]] = no_context
    layouts: Layouts = field(default_factory=Layouts)

    def __post_init__(self) -> None:
        if not isinstance(self.layers, nn.Module):
            raise InputError(f"the layers are in a {type(self.layers).__name__}; they must be in an nn.ModuleList")
        if not len(self.layers):
            raise InputError("the list of layers to share is empty")
        known = [name for name, _ in matrices(self.layers[0])]
        for name in (name for symmetry in self.symmetries for name in symmetry.names):
            if name not in known:
                raise InputError(f"a {type(self.layers[0]).__name__} has no matrix {name}; it must be one of {', '.join(known)}")

    @property
    def uncovered(self) -> list[str]:
        """Names of a layer's weights with two or more dimensions that belong to no matrix and stay unchanged."""
        layer = self.layers[0]
        covered = {id(parameter) for _, linear in matrices(layer) for parameter in linear.parameters()}
        return [name for name, parameter in layer.named_parameters() if parameter.dim() > 1 and id(parameter) not in covered]

    @property
    def is_shared(self) -> bool:
        return any(isinstance(module, ResidualLinear) for module in self.layers.modules())

    @property
    def whole(self) -> nn.Module:
        """The owner, which has more than the layers; the layers alone without an owner."""
        return self.layers if self.owner is None else self.owner

    @property
    def shared_weights(self) -> SharedWeights:
        """The shared weights of layers that share.

        Raises:
            InputError: if they are not registered in `owner`.
        """
        shared_weights = getattr(self.owner, "shared_weights", None)
        if not isinstance(shared_weights, SharedWeights):
            raise InputError("the layers share their matrices, but the owner of their stack has no shared weights")
        return shared_weights

    @property
    def form(self) -> SharedForm:
        """The form of layers that share. Raises InputError, see `shared_weights`."""
        return current_form(self.layers, self.shared_weights)

    def register(self, shared_weights: SharedWeights) -> None:
        """Register the shared weights of layers that now share in their owner; without one the caller does."""
        if self.owner is not None:
            self.owner.shared_weights = shared_weights

    def record(self, form: SharedForm) -> None:
        """Record the form of layers that now share in the model."""
        if self.owner is not None:
            self.on_sharing(self.owner, form)

    def unshare(self) -> None:
        """Replace every shared matrix by a plain one with the composed weights, in place."""
        unshare_layers(self.layers)
        if self.owner is not None:
            del self.owner.shared_weights

    def real_positions(self, states: Tensor, padding: Tensor | None, name: str = STATES) -> Tensor:
        """States or their gradients as (positions without padding, n).

        Args:
            states: (batch, time, n), (time, batch, n) or another layout known to `Layouts`.
            padding: (batch, time).
            name: name of the matrix with these inputs; by default the layer's own states.

        Raises:
            InputError: see `Layouts.rows`.
        """
        return self.layouts.rows(name, states, padding)


def copied(model: nn.Module, stack: LayerStack) -> tuple[nn.Module, LayerStack]:
    """A copy of a model and of the stack inside it. The stack's list of layers need not be the model's own list."""
    with refusing(f"{type(model).__name__} cannot be copied, which is needed for a later comparison"):
        copied_model, layers, owner = deep_copy((model, stack.layers, stack.owner))
    return copied_model, replace(stack, layers=layers, owner=owner)
