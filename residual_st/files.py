"""Files that appear under their names only when they are whole."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
