"""Decoding of recordings of any length in windows with a model's timestamps, as Whisper's authors do."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from residual_st.runtime.beam_search import Hypothesis
from residual_st.runtime.folder import Folder
from residual_st.runtime.timestamps import TimeStamps

Texts = Callable[[int, int], list[Hypothesis]]  # texts of the samples from one position of the recording to another, best first


class Sentence(NamedTuple):
    """The text between two timestamps: start and end in samples from the start of the recording, words without timestamps, and the
    mean log-probability per word of its window."""

    start: int
    end: int
    tokens: list[int]
    score: float


def sentences(folder: Folder, timestamps: TimeStamps, texts: Texts, span: tuple[int, int]) -> Iterator[Sentence]:
    """Yield the sentences of a span of a recording, window by window. Each window begins where the last sentence before it ended.

    Args:
        timestamps: timestamp words of the folder's model.
        texts: function that decodes with timestamps.
    """
    rate, (start, stop) = folder.sample_rate, span
    while stop - start >= folder.shortest_samples:
        end = min(start + int(folder.longest_seconds * rate), stop)
        done = end - start
        for text in texts(start, end)[:1]:
            segments, seconds = timestamps.segments(text.tokens, done / rate)
            for times in segments:
                first, last = (min(start + round(time * rate), stop) for time in times[:2])
                yield Sentence(first, last, times[2], text.score)
            done = round(seconds * rate) or done
        start += done
