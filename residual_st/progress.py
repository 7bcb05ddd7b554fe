"""Progress bars: shown by our commands, never inside fairseq's, which have their own."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

_shown = False


def show_progress() -> None:
    """Let bars be drawn from now on, where the error output is a terminal."""
    global _shown
    _shown = True


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """tqdm's bar."""
    return tqdm(iterable, disable=None if _shown else True, **options)


def say(text: str) -> None:
    """A line for the user beside a command's output, above any bar."""
    tqdm.write(f"residual-st: {text}", file=sys.stderr)
