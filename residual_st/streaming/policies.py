"""Policies: how many of the new words are committed, that is, never revised.

At each step of a window, a policy gets the candidate words that follow the words committed so far.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

CUTOFF_SECONDS = 0.5


class Candidate(NamedTuple):
    """Candidate words, which follow the committed words.

    Attributes:
        words: word ids.
        ends: time from each word to the end of the audio so far in seconds, (words,); empty if the policy does not need it.
        are_final: whether no further audio can change them.
    """

    words: list[int]
    ends: np.ndarray = np.zeros(0)
    are_final: bool = False


class Policy(Protocol):
    """The policy for one window; the next window gets a new one.

    Attributes:
        needs_places: whether the policy needs `Candidate.ends`.
        is_of_ctc: whether words come from the CTC head even if the model has a decoder.
    """

    needs_places: bool
    is_of_ctc: bool

    def committed(self, candidate: Candidate) -> int:
        """How many of the candidate words to commit."""


class Retranslation:
    """No word is committed until its window ends: the window is translated anew at each step (Arivazhagan et al. 2020)."""

    needs_places = is_of_ctc = False

    def committed(self, candidate: Candidate) -> int:
        return 0


class LocalAgreement:
    """Commits words on which two successive steps agree (Liu et al. 2020, `LA-2`), except the last one: it may be a full stop that
    is caused by the end of the audio so far."""

    needs_places = is_of_ctc = False

    def __init__(self):
        self._before: list[int] = []

    def committed(self, candidate: Candidate) -> int:
        agreed = min(common_prefix(self._before, candidate.words), max(0, len(candidate.words) - 1))
        self._before = candidate.words[agreed:]
        return agreed


class AlignAtt:
    """Commits words up to the first one that attends mostly to the last half second (Papi et al. 2023, arXiv 2305.11408)."""

    needs_places, is_of_ctc = True, False

    def committed(self, candidate: Candidate) -> int:
        too_late = np.flatnonzero(candidate.ends < CUTOFF_SECONDS)
        return int(too_late[0]) if len(too_late) else len(candidate.words)


class GreedyCtc(AlignAtt):
    """Commits words of the CTC head as soon as they are final. A streaming encoder never changes frames, so all words are final.
    With an encoder that reads whole windows none are, and words are committed when they are half a second old."""

    is_of_ctc = True

    def committed(self, candidate: Candidate) -> int:
        return len(candidate.words) if candidate.are_final else super().committed(candidate)


POLICIES: dict[str, type[Policy]] = {
    "local-agreement": LocalAgreement,
    "alignatt": AlignAtt,
    "retranslation": Retranslation,
    "ctc": GreedyCtc,
}


def common_prefix(one: list[int], other: list[int]) -> int:
    """Length of the common prefix of two texts, in words."""
    return next((place for place, pair in enumerate(zip(one, other)) if pair[0] != pair[1]), min(len(one), len(other)))


def covered(words: Sequence[int], text: Sequence[int]) -> int:
    """The length of the prefix of `words` that is closest to `text` in edit distance; of several, the longest."""
    costs = np.arange(len(words) + 1)
    places = np.arange(len(words) + 1)
    numbers = np.array(words, np.int64)
    for word in text:
        changed = costs + 1
        changed[1:] = np.minimum(changed[1:], costs[:-1] + np.where(numbers == word, 0, 1))
        costs = np.minimum.accumulate(changed - places) + places  # each deleted word costs 1
    return int(len(words) - costs[::-1].argmin())


def between_words(words: list[int], here: int, written: Callable[[list[int]], str]) -> int:
    """The position nearest to `here` at which a text can be split at a space; `here` if there is none.

    Args:
        words: pieces of the text.
        here: number of pieces before the cut.
        written: function pieces -> text.
    """
    if here in (0, len(words)):
        return here
    text = written(words)
    places = [place for place in range(1, len(words)) if f"{written(words[:place])} {written(words[place:])}" == text]
    return min(places, key=lambda place: abs(place - here), default=here)
