"""Copies of modules that have run."""

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

Whole = TypeVar("Whole", bound="nn.Module | tuple[nn.Module | None, ...]")


def deep_copy(whole: Whole, kept: dict[int, Any] | None = None) -> Whole:
    """`copy.deepcopy` of a module, or a tuple of modules and None, even if they store tensors of their last call.

    torch refuses to copy such tensors with their graph, for example ESPnet's attention map or a weight-normed weight. The copy has
    only the values.

    Args:
        kept: id of an object -> object to use in the copy, such as the original itself.
    """
    modules = {
        module for part in (whole if isinstance(whole, tuple) else (whole,)) if part is not None for module in part.modules()
    }
    computed = (value for module in modules for value in _tensors(vars(module)) if not value.is_leaf)
    return copy.deepcopy(whole, {id(value): value.detach().clone() for value in computed} | (kept or {}))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
