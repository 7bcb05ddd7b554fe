"""Checks of numbers given by a caller."""

import math
from numbers import Integral, Real

from residual_st.errors import InputError


def is_whole(value, least: int, most: float = math.inf) -> bool:
    """Whether a value is a whole number from `least` to `most`. True and 2.0 are not."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def require_whole(name: str, value, least: int) -> None:
    """Raise InputError, with `name` in its message, unless the value is a whole number of at least `least`."""
    if not is_whole(value, least):
        raise InputError(f"{name} {value!r} must be a whole number of at least {least}")


def is_real(value) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
