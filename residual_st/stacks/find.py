"""Finding the stacks of a model."""

import importlib
import math

from torch import nn

from residual_st.errors import InputError
from residual_st.sharing import in_order, matrices, shape_of
from residual_st.stacks.generic import describe_stack
from residual_st.stacks.layer_stack import LayerStack

# library of a model's class or of one of its bases -> module that knows the library's models
_KNOWN_BY = {"fairseq": "residual_st.fairseq.kinds", "transformers": "residual_st.huggingface.kinds"}


def stack_of(model: nn.Module, part: str = "encoder") -> LayerStack:
    """The stack of layers of a model.

    Args:
        model: a fairseq model, a Hugging Face model of a known kind (docs/kinds.md), or an `nn.ModuleList`.
        part: "encoder" or "decoder".

    Raises:
        InputError: for other models; describe their stack by a `LayerStack`.
    """
    classes = type(model[0] if isinstance(model, nn.ModuleList) and len(model) else model).__mro__
    library = next((name for base in classes if (name := base.__module__.partition(".")[0]) in _KNOWN_BY), None)
    if library:
        known = importlib.import_module(_KNOWN_BY[library])  # imports the library, which is installed since the model is from it
        stack: LayerStack = known.stack_of_layers(model) if isinstance(model, nn.ModuleList) else known.stack_of(model, part)
        return stack
    if isinstance(model, nn.ModuleList):
        return describe_stack(model)
    raise InputError(f"{type(model).__name__} has no known stack of {part} layers; describe it by a LayerStack")


def stacks_in(module: nn.Module) -> dict[str, nn.ModuleList]:
    """Name -> list of two or more layers of one class that contain matrices; the one with most weights first.

    Lists inside the layers of another list are left out. Weights are counted as if dense, so that sharing does not change the
    order.
    """
    stacks: dict[str, nn.ModuleList] = {}
    for name, layers in module.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(layers, nn.ModuleList) and not inside and _is_stack(layers):
            stacks[name] = layers
    return dict(sorted(stacks.items(), key=lambda item: -_dense_weights(item[1])))


def heaviest_stack(module: nn.Module, name: str | None = None) -> tuple[str, nn.ModuleList]:
    """The name and the layers of the stack with most weights in a module, or of the stack `name`.

    Raises:
        InputError: if there is none.
    """
    stacks = stacks_in(module)
    if not stacks:
        raise InputError(f"{type(module).__name__} has no nn.ModuleList of two or more layers of one class that contain matrices")
    chosen = next(iter(stacks)) if name is None else name
    if chosen not in stacks:
        raise InputError(f"{type(module).__name__} has no stack of layers {name!r}; it must be one of {', '.join(stacks)}")
    return chosen, stacks[chosen]


def _is_stack(layers: nn.ModuleList) -> bool:
    stack = in_order(layers)
    holds_matrices = all(any(name for name, _ in matrices(layer)) for layer in stack)  # and is not a matrix itself
    return len(stack) > 1 and len({type(layer) for layer in stack}) == 1 and holds_matrices


def _dense_weights(layers: nn.ModuleList) -> int:
    return sum(math.prod(shape_of(matrix)) for layer in in_order(layers) for _, matrix in matrices(layer))
