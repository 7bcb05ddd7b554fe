"""Recording the inputs and outputs of layers while a model runs."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.stacks.layer_stack import LayerStack
from residual_st.stacks.layouts import STATES


@dataclass
class LayerCall:
    """The last call of a layer: hidden states before and after it, in the layer's layout, and padding masks (batch, time).

    `arguments` and `keywords` are those of the call.
    """

    inputs: Tensor
    padding: Tensor | None
    memory_padding: Tensor | None
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    output: Tensor = field(init=False)

    def repeat(self, layer: nn.Module, states: Tensor) -> Any:
        """Call a layer with the same arguments, but other hidden states. Returns its return value."""
        arguments = [states if value is self.inputs else value for value in self.arguments]
        keywords = {name: states if value is self.inputs else value for name, value in self.keywords.items()}
        return layer(*arguments, **keywords)


@contextlib.contextmanager
def recorded_calls(stack: LayerStack, chosen: Iterable[int] | None = None) -> Iterator[dict[int, LayerCall]]:
    """While the block runs, fill a dict with layer -> its last call; a call is recorded before the layer computes.

    Args:
        chosen: the layers; None for all.
    """
    calls: dict[int, LayerCall] = {}

    def enter(index: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            states = _states(layer, arguments, keywords)
            padding, memory_padding = stack.padding(arguments, keywords), stack.memory_padding(arguments, keywords)
            stack.layouts.see(STATES, states, padding)
            calls[index] = LayerCall(states, padding, memory_padding, arguments, keywords)

        return hook

    def leave(index: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_layer: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
            calls[index].output = stack.output(output)

        return hook

    with contextlib.ExitStack() as hooks:
        for index in range(len(stack.layers)) if chosen is None else chosen:
            hooks.callback(stack.layers[index].register_forward_pre_hook(enter(index), with_kwargs=True).remove)
            hooks.callback(stack.layers[index].register_forward_hook(leave(index)).remove)
        yield calls


def _states(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """The hidden states that a layer is called with: the first floating-point tensor in the order of its own parameters.

    Raises:
        InputError: if there is none, or several keywords that are not in the layer's signature.
    """
    order = list(inspect.signature(type(layer).forward).parameters)
    known = [name for name in order if name in keywords]
    unknown = [name for name in keywords if name not in order]
    values = [*arguments, *(keywords[name] for name in [*known, *unknown])]
    tensors = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    if not tensors or (not arguments and not known and len(tensors) > 1):
        names = ", ".join([*(f"argument {place}" for place in range(1, len(arguments) + 1)), *keywords]) or "nothing"
        raise InputError(f"{type(layer).__name__} is called with {names}, in which the hidden states cannot be identified")
    return tensors[0]
