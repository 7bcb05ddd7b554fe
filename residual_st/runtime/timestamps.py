"""Whisper's own time stamps: words of a text that say when something was said."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class TimeStamps:
    """Which words are time stamps.

    Attributes:
        none: the word that asks for a text without them.
        first: the word of 0 s, behind which every word is of a later time.
        seconds: between two of them.
        latest_start: how many steps behind the first one a text may begin; None for any.
        silence: the word whose probability, behind the first word of a prompt, says that nobody speaks.
    """

    none: int
    first: int
    seconds: float
    latest_start: int | None
    silence: int

    def __post_init__(self):
        if not self.seconds > 0 or not (self.latest_start is None or self.latest_start >= 0):
            raise ValueError(f"time stamps must be some time apart, and the latest start be none before the first: {self}")

    def rule(self, log_probs: np.ndarray, tokens: np.ndarray, eos: int) -> None:
        """Have words with -inf where they may not follow, as Whisper's authors have it.

        A text begins with a time; times come in pairs, between sentences, or before the end; none is earlier than the one before
        it; and where all of the times together are likelier than any other word, one of them follows.

        Args:
            log_probs: of the next words (rows, vocabulary), changed in place.
            tokens: of the text so far (rows, words).
            eos: the word that ends a text.
        """
        log_probs[:, self.none] = -np.inf
        if not tokens.shape[1]:
            log_probs[:, : self.first] = -np.inf
            if self.latest_start is not None:
                log_probs[:, self.first + self.latest_start + 1 :] = -np.inf
        for row, words in zip(log_probs, tokens):
            if not len(words):
                continue
            is_time = words >= self.first
            if is_time[-1]:
                if len(words) < 2 or is_time[-2]:
                    row[self.first :] = -np.inf
                else:
                    row[:eos] = -np.inf
            if is_time.any():
                ends_a_sentence = is_time[-1] and not (len(words) < 2 or is_time[-2])
                earliest = words[is_time][-1] + (0 if ends_a_sentence else 1)
                row[self.first : earliest] = -np.inf
        times, others = log_probs[:, self.first :], log_probs[:, : self.first]
        likelier = np.logaddexp.reduce(times, axis=1) > others.max(axis=1)
        others[likelier] = -np.inf

    def segments(self, tokens: list[int], seconds: float) -> tuple[list[tuple[float, float, list[int]]], float]:
        """The sentences of a window of so many seconds: start, end, words without times; and how many seconds are done with.

        Where a text breaks off behind a pair of times, what comes behind it belongs to the next window.
        """
        is_time = [token >= self.first for token in tokens]
        ends_with_one = is_time[-2:] == [False, True]
        cuts = [place + 1 for place, pair in enumerate(pairwise(is_time)) if all(pair)]
        if not cuts:
            times = [token for token in tokens if token > self.first]
            end = (times[-1] - self.first) * self.seconds if times else seconds
            return [(0.0, end, self._words(tokens))], seconds
        last = cuts[-1]
        if ends_with_one:
            cuts.append(len(tokens))
        found = []
        for begin, end in pairwise([0, *cuts]):
            words = tokens[begin:end]
            found.append((self._time(words[0]), self._time(words[-1]), self._words(words)))
        return found, seconds if ends_with_one else self._time(tokens[last - 1])

    def _time(self, token: int) -> float:
        return (token - self.first) * self.seconds

    def _words(self, tokens: list[int]) -> list[int]:
        return [token for token in tokens if token < self.first]
