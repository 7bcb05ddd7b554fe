"""Numbers that a caller gives, checked where they come in."""

import math
from numbers import Integral, Real

from residual_st.errors import InputError


def is_whole(value, least: int, most: float = math.inf) -> bool:
    """Whether a value is a whole number within bounds. True and 2.0 are not."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= value <= most


def require_whole(name: str, value, least: int) -> None:
    """Raise InputError, which calls the value `name`, unless it is a whole number of `least` or more."""
    if not is_whole(value, least):
        raise InputError(f"{name} {value!r} must be a whole number of {least} or more")


def is_real(value) -> bool:
    """Whether a value is a number, and a finite one."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
