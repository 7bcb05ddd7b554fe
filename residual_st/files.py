"""Files that appear under their names only when they are whole."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from residual_st.errors import InputError


@contextlib.contextmanager
def atomically(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to. It takes the name of `path` in the end, or goes away if the block raises."""
    partial = Path(f"{path}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def refuse_existing(path: str | Path, force: bool) -> None:
    """Raise InputError, before any work, where an output would overwrite a file and `force` is not given, or has no folder."""
    if Path(path).is_dir() or (Path(path).exists() and not force):
        raise InputError(f"{path} exists already; name another output, or give --force to overwrite a file")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {Path(path).absolute().parent}")
