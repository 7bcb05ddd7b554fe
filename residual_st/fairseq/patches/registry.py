"""Patches of fairseq by name, and the switch that turns them off."""

import logging
import os
from collections.abc import Callable

from residual_st.errors import InputError

logger = logging.getLogger("fairseq.patches")  # one of fairseq's, so that it speaks where and when fairseq does

SWITCH = "RESIDUAL_ST_NO_PATCHES"  # an environment variable, so that processes that fairseq starts inherit it

PATCHES: dict[str, Callable[[], bool | None]] = {}
_active: list[str] = []


def patch(name: str) -> Callable:
    """Register a function under a name. It applies one patch when called, and returns False where this fairseq needs none.

    Its docstring says what is wrong in fairseq, how it shows, and what changes. To be harmless when called twice, and beside other
    packages' wrappers, it wraps with `residual_st.wrapping.wrap`.
    """

    def register(function: Callable[[], bool | None]) -> Callable[[], bool | None]:
        PATCHES[name] = function
        return function

    return register


def apply_patches() -> list[str]:
    """Apply all patches but those that `RESIDUAL_ST_NO_PATCHES=NAME[,NAME]` or `=all` turns off, and say once which are active.

    One that does not fit this fairseq is left out with a warning.

    Returns:
        The names of those that are active.

    Raises:
        InputError: if the variable names no patch.
    """
    off, fresh = _switched_off(), []
    for name, apply in PATCHES.items():
        if name in off:
            continue
        try:
            if apply() is not False and name not in _active:
                fresh.append(name)
        except AttributeError as error:
            logger.warning(f"the patch {name} does not fit this fairseq and is left out: {error}")
    if fresh:
        names = ", ".join(fresh)
        logger.info(f"fairseq patches: {names} ({SWITCH}=NAME,… turns them off)")
    _active.extend(fresh)
    return list(_active)


def _switched_off() -> set[str]:
    names = {name.strip() for name in os.environ.get(SWITCH, "").split(",")} - {""}
    if names == {"all"}:
        return set(PATCHES)
    if unknown := sorted(names - PATCHES.keys()):
        raise InputError(f"{SWITCH} names {unknown[0]!r}, which is no patch; it must be all, or some of {', '.join(PATCHES)}")
    return names
