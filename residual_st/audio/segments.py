"""Utterance ids of a corpus."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

Segment = TypeVar("Segment")


def numbered(wav: str | Path, segments: Iterable[Segment], offset: Callable[[Segment], str]) -> Iterator[tuple[str, Segment]]:
    """Yield the segments of one recording with their utterance ids, `WAV_NUMBER`.

    fairseq's recipe numbers them in the order of their offsets, compared as strings as written in the yaml: 10.5 comes before 9.1.
    Manifests of both recipes contain these ids, so the numbering must be the same.

    Args:
        offset: a segment's offset in seconds, as text.
    """
    for number, segment in enumerate(sorted(segments, key=offset)):
        yield f"{Path(wav).stem}_{number}", segment
