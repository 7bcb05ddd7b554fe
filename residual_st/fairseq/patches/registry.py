"""Registry of fairseq patches by name, and the switch to turn them off."""

import logging
import os
from collections.abc import Callable

from residual_st.errors import InputError

logger = logging.getLogger("fairseq.patches")  # a child of fairseq's logger, so that it logs where and when fairseq does

SWITCH = "RESIDUAL_ST_NO_PATCHES"  # an environment variable, so that processes that fairseq starts inherit it

PATCHES: dict[str, Callable[[], bool | None]] = {}
_active: list[str] = []


def patch(name: str) -> Callable:
    """Register a function under a name. It applies one patch when called, and returns False if the installed fairseq needs none.

    Its docstring describes the fault in fairseq, its symptoms, and the change. It must wrap with `residual_st.wrapping.wrap`, so
    that it can be called twice and used with other packages' wrappers.
    """

    def register(function: Callable[[], bool | None]) -> Callable[[], bool | None]:
        PATCHES[name] = function
        return function

    return register


def apply_patches() -> list[str]:
    """Apply all patches except those in `RESIDUAL_ST_NO_PATCHES=NAME[,NAME]` (or `=all`), and log once which are active.

    A patch that does not fit the installed fairseq is skipped with a warning.

    Returns:
        The names of the active patches.

    Raises:
        InputError: if the variable names an unknown patch.
    """
    off, fresh = _switched_off(), []
    for name, apply in PATCHES.items():
        if name in off:
            continue
        try:
            if apply() is not False and name not in _active:
                fresh.append(name)
        except AttributeError as error:
            logger.warning(f"the patch {name} does not fit the installed fairseq and is skipped: {error}")
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
        raise InputError(f"{SWITCH} names the unknown patch {unknown[0]!r}; it must be all, or names from {', '.join(PATCHES)}")
    return names
