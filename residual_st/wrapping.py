"""Wrapping of other libraries' functions in place."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def wrap(owner: Any, name: str) -> Callable[[Callable], Callable]:
    """Decorator that replaces `owner.name`, an attribute of a module or a class, by the decorated function.

    The function is called with the original function as its first argument, followed by the original arguments. Wrappers of other
    libraries stay in effect. If this function already wraps the attribute, nothing changes.

    Raises:
        AttributeError: if `owner` has no attribute `name`.
    """

    def decorate(function: Callable) -> Callable:
        static = inspect.getattr_static(owner, name)
        kind = type(static) if isinstance(static, (staticmethod, classmethod)) else None
        before = static.__func__ if kind else getattr(owner, name)
        mark = f"{function.__module__}.{function.__qualname__}"
        if mark not in _marks(before):

            @functools.wraps(before, updated=() if isinstance(before, type) else ("__dict__",))
            def wrapper(*arguments, **keywords):
                return function(before, *arguments, **keywords)

            vars(wrapper).update(residual_st_wrapper=mark)
            setattr(owner, name, kind(wrapper) if kind else wrapper)
        return function

    return decorate


def _marks(function: Callable | None) -> set[str]:
    """Our wrappers around a function, followed through `__wrapped__`."""
    marks = set()
    while function is not None:
        marks.add(getattr(function, "residual_st_wrapper", ""))
        function = getattr(function, "__wrapped__", None)
    return marks
