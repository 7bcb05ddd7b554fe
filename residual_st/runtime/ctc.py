"""Greedy CTC decoding (Graves et al. 2006): the likeliest symbol of each frame, without repetitions and blanks."""

from dataclasses import dataclass

import numpy as np

from residual_st.errors import InputError
from residual_st.runtime.beam_search import Hypothesis
from residual_st.runtime.folder import Folder
from residual_st.runtime.settings import Settings


@dataclass(frozen=True)
class Frames:
    """Encoded utterances: log-probabilities of symbols (batch, time, vocabulary), and their numbers of frames (batch,)."""

    log_probs: np.ndarray
    lengths: np.ndarray

    @property
    def states(self) -> int:
        """Number of frames of the longest utterance."""
        return int(self.log_probs.shape[1])


class CtcSearch:
    """Greedy CTC search, with the interface of `search.Search`.

    Raises:
        InputError: if the settings ask for more than one hypothesis.
    """

    def __init__(self, folder: Folder, settings: Settings):
        self._blank = folder.vocabulary.eos
        settings = settings.completed(folder.settings)
        if settings.beam != 1:
            raise InputError(f"beam={settings.beam} must be 1: {folder.path} is decoded by greedy CTC, which has no beam")

    def best(self, frames: Frames) -> list[list[Hypothesis]]:
        """One hypothesis per utterance. Its score is the mean log-probability over frames."""
        return [[best_path(rows[:length], self._blank)] for rows, length in zip(frames.log_probs, frames.lengths)]

    def accepted(self, frames: Frames, *_rules: object) -> list[Hypothesis]:
        """The hypothesis of one utterance; greedy CTC has no fallback rules."""
        return self.best(frames)[0]


def best_path(log_probs: np.ndarray, blank: int) -> Hypothesis:
    """The hypothesis for an utterance's frames (time, vocabulary)."""
    words, _ = best_frames(log_probs, blank)
    return Hypothesis(words, float(log_probs.max(axis=1).mean()))


def best_frames(log_probs: np.ndarray, blank: int) -> tuple[list[int], np.ndarray]:
    """The likeliest symbols of an utterance's frames (time, vocabulary), and the frame at which each begins."""
    best = log_probs.argmax(axis=1)
    frames = np.flatnonzero((np.diff(best, prepend=-1) != 0) & (best != blank))
    return best[frames].tolist(), frames
