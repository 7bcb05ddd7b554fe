"""What goes into layers and what comes out, while a model runs."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from residual_st.stacks.layer_stack import LayerStack


@dataclass
class LayerCall:
    """The latest call of a layer: hidden states before and after it, as the stack has them, and padding masks (batch, time).

    `arguments` and `keywords` are all that it was called with.
    """

    inputs: Tensor
    padding: Tensor | None
    memory_padding: Tensor | None
    arguments: tuple = ()
    keywords: dict = field(default_factory=dict)
    output: Tensor | None = None

    def repeat(self, layer: nn.Module, states: Tensor):
        """What a layer returns that is called likewise, but on other hidden states."""
        arguments = [states if value is self.inputs else value for value in self.arguments]
        keywords = {name: states if value is self.inputs else value for name, value in self.keywords.items()}
        return layer(*arguments, **keywords)


@contextlib.contextmanager
def recorded_calls(stack: LayerStack, chosen: Iterable[int] | None = None) -> Iterator[dict[int, LayerCall]]:
    """Fill a dict, while the block runs, with layer -> its latest call; a call is there before the layer computes.

    Args:
        chosen: the layers; None for all.
    """
    calls = {}

    def enter(index: int):
        def hook(_layer, arguments, keywords):
            states = arguments[0] if arguments else next(value for value in keywords.values() if isinstance(value, Tensor))
            padding, memory_padding = stack.padding(arguments, keywords), stack.memory_padding(arguments, keywords)
            calls[index] = LayerCall(states, padding, memory_padding, arguments, keywords)

        return hook

    def leave(index: int):
        def hook(_layer, _arguments, output):
            calls[index].output = stack.output(output)

        return hook

    with contextlib.ExitStack() as hooks:
        for index in range(len(stack.layers)) if chosen is None else chosen:
            hooks.callback(stack.layers[index].register_forward_pre_hook(enter(index), with_kwargs=True).remove)
            hooks.callback(stack.layers[index].register_forward_hook(leave(index)).remove)
        yield calls
