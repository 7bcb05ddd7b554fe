"""Whisper's timestamps: words of a text that mark times."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class TimeStamps:
    """The timestamp words of a model.

    Attributes:
        none: prompt word for a text without timestamps.
        first: the word for 0 s; the words after it are later times.
        seconds: time between two consecutive timestamp words.
        latest_start: maximum number of steps after `first` at which a text may begin; None for any.
        silence: the word whose probability after the first word of a prompt is that of silence.
    """

    none: int
    first: int
    seconds: float
    latest_start: int | None
    silence: int

    def __post_init__(self) -> None:
        if not self.seconds > 0 or not (self.latest_start is None or self.latest_start >= 0):
            raise ValueError(f"timestamps must have seconds above 0, and a latest_start of at least 0: {self}")

    def rule(self, log_probs: np.ndarray, tokens: np.ndarray, eos: int) -> None:
        """Set the log-probabilities of words that may not follow to -inf, by the rules of Whisper's authors.

        A text begins with a timestamp. Timestamps come in pairs between sentences, or before the end, and never decrease. If all
        timestamps together are likelier than any other word, one of them follows.

        Args:
            log_probs: log-probabilities of the next words (rows, vocabulary), changed in place.
            tokens: the text so far (rows, words).
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
        """The sentences of a window that lasts `seconds`, each as (start, end, words without timestamps), and the seconds done.

        Text after the last pair of timestamps, if it has no end, belongs to the next window.
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
        results = []
        for begin, end in pairwise([0, *cuts]):
            words = tokens[begin:end]
            results.append((self._time(words[0]), self._time(words[-1]), self._words(words)))
        return results, seconds if ends_with_one else self._time(tokens[last - 1])

    def _time(self, token: int) -> float:
        return (token - self.first) * self.seconds

    def _words(self, tokens: list[int]) -> list[int]:
        return [token for token in tokens if token < self.first]
