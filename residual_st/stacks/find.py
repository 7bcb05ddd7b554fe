"""Where the stacks of a model are."""

import importlib
import math

from torch import nn

from residual_st.errors import InputError
from residual_st.sharing import in_order, matrices, shape_of
from residual_st.stacks.generic import describe_stack
from residual_st.stacks.layer_stack import LayerStack

# the library that a model's class, or one of its bases, is of -> who knows how that library's models are built
_KNOWN_BY = {"fairseq": "residual_st.fairseq.kinds", "transformers": "residual_st.huggingface.kinds"}


def stack_of(model: nn.Module, part: str = "encoder") -> LayerStack:
    """The stack of layers of a model.

    Args:
        model: a fairseq model, a Hugging Face one of a kind that is known (docs/kinds.md), or a plain `nn.ModuleList`.
        part: "encoder", or "decoder", of a fairseq model.

    Raises:
        InputError: for another model; a `LayerStack` describes the stack of any.
    """
    is_list = isinstance(model, nn.ModuleList)
    classes = type(model[0] if is_list and len(model) else model).__mro__
    library = next((name for base in classes if (name := base.__module__.partition(".")[0]) in _KNOWN_BY), None)
    if library:
        known = importlib.import_module(_KNOWN_BY[library])  # which imports the library; the model's user has it
        return known.stack_of_layers(model) if is_list else known.stack_of(model, part)
    if is_list:
        return describe_stack(model)
    raise InputError(f"{type(model).__name__} has no stack of {part} layers that is known here; describe it by a LayerStack")


def stacks_in(module: nn.Module) -> dict[str, nn.ModuleList]:
    """Name -> list of two layers or more, all of one class, each of which holds matrices; the heaviest first.

    A list inside a layer of another is a part of that layer and not among them. How heavy a list is does not change when its layers
    share.
    """
    found = {}
    for name, layers in module.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if isinstance(layers, nn.ModuleList) and not inside and _is_stack(layers):
            found[name] = layers
    return dict(sorted(found.items(), key=lambda item: -_dense_weights(item[1])))


def heaviest_stack(module: nn.Module, name: str | None = None) -> tuple[str, nn.ModuleList]:
    """The name and the list of the heaviest stack in a module, or of the one with this name.

    Raises:
        InputError: if there is none.
    """
    found = stacks_in(module)
    if not found:
        raise InputError(f"{type(module).__name__} has no nn.ModuleList of two layers or more of one class that hold matrices")
    chosen = next(iter(found)) if name is None else name
    if chosen not in found:
        raise InputError(f"{type(module).__name__} has no stack of layers {name!r}; it must be one of {', '.join(found)}")
    return chosen, found[chosen]


def _is_stack(layers: nn.ModuleList) -> bool:
    stack = in_order(layers)
    holds_matrices = all(any(name for name, _ in matrices(layer)) for layer in stack)  # and is none itself
    return len(stack) > 1 and len({type(layer) for layer in stack}) == 1 and holds_matrices


def _dense_weights(layers: nn.ModuleList) -> int:
    return sum(math.prod(shape_of(matrix)) for layer in in_order(layers) for _, matrix in matrices(layer))
