"""Functions of other libraries, wrapped where they stand."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def wrap(owner: Any, name: str) -> Callable[[Callable], Callable]:
    """Decorate a function that is to take the place of `owner.name`, a module's or a class's.

    It is called with what stood there before it, and then as that was. What stood there may have been wrapped by others, who then
    take effect too; where this function is among the wrappers already, everything stays as it is.

    Raises:
        AttributeError: if there is nothing of this name.
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

            wrapper.residual_st_wrapper = mark
            setattr(owner, name, kind(wrapper) if kind else wrapper)
        return function

    return decorate


def _marks(function: Callable | None) -> set[str]:
    """Those of our wrappers among a function's, as far as others' wrappers say what they wrap."""
    marks = set()
    while function is not None:
        marks.add(getattr(function, "residual_st_wrapper", ""))
        function = getattr(function, "__wrapped__", None)
    return marks
