"""Copies of modules that have run."""

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor

Whole = TypeVar("Whole")


def deep_copy(whole: Whole, kept: dict[int, Any] | None = None) -> Whole:
    """`copy.deepcopy` of a module, or a tuple of modules and None, whatever they keep of their latest call.

    Such as ESPnet's attention map or a weight-normed weight: with all that it was computed from, torch refuses to copy it. The copy
    has the values alone.

    Args:
        kept: id -> object, of objects that the copy is to have in common with the original, or has instead of them.
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
