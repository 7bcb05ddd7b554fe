"""Rules for which words may come next in a text."""

from collections.abc import Sequence

import numpy as np

from residual_st.runtime.settings import CompleteSettings
from residual_st.runtime.timestamps import TimeStamps
from residual_st.runtime.vocabulary import Vocabulary


class Rules:
    """The rules for one search.

    Args:
        vocabulary: defines special symbols and words that are never generated.
        settings: search settings.
        longest: maximum number of words, without the end symbol.
        prefix: words that every text begins with.
        earlier: words after the prefix, from the text of an earlier step.
        timestamps: timestamp rules; None for texts without timestamps.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        settings: CompleteSettings,
        longest: int,
        prefix: Sequence[int] = (),
        timestamps: TimeStamps | None = None,
        earlier: Sequence[int] = (),
    ):
        self.eos, self.longest = vocabulary.eos, longest
        self._vocabulary, self._settings, self._timestamps = vocabulary, settings, timestamps
        self._start, self._forced = len(prefix), [*prefix, *earlier]

    def allowed(self, log_probs: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Log-probabilities of the next words (rows, vocabulary), with -inf for words that may not follow the text so far (rows,
        words)."""
        vocabulary, step = self._vocabulary, tokens.shape[1]
        log_probs = np.where(np.isnan(log_probs), -np.inf, log_probs)
        if vocabulary.pad is not None:
            log_probs[:, vocabulary.pad] = -np.inf
        if vocabulary.unk is not None:
            log_probs[:, vocabulary.unk] -= self._settings.unkpen
        if step >= self.longest:
            return _only(log_probs, vocabulary.eos)
        if step < len(self._forced):
            return _only(log_probs, self._forced[step])
        log_probs[:, vocabulary.suppressed] = -np.inf
        if step == self._start:
            log_probs[:, vocabulary.begin_suppressed] = -np.inf
        if step < self._settings.min_len:
            log_probs[:, vocabulary.eos] = -np.inf
        if self._timestamps is not None:
            self._timestamps.rule(log_probs, tokens, vocabulary.eos)
        return log_probs


def _only(log_probs: np.ndarray, word: int) -> np.ndarray:
    kept = np.full_like(log_probs, -np.inf)
    kept[:, word] = log_probs[:, word]
    return kept
