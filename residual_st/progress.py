"""Progress bars: shown by our commands, and off inside fairseq's commands, which have their own."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

_shown = False


def show_progress() -> None:
    """Enable progress bars, which are drawn if standard error is a terminal."""
    global _shown
    _shown = True


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """A tqdm bar, disabled unless `show_progress` was called."""
    return tqdm(iterable, disable=None if _shown else True, **options)


def say(text: str) -> None:
    """Print a line to standard error, above any progress bar."""
    tqdm.write(f"residual-st: {text}", file=sys.stderr)
