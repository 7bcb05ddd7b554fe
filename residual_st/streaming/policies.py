"""Policies: how many of the words that were just found stand, and are never taken back.

Each is told what was found behind the words that stand already, at each step of one window.
"""

from typing import NamedTuple, Protocol

import numpy as np

CUTOFF_SECONDS = 0.5


class Found(NamedTuple):
    """Words behind those that stand.

    Attributes:
        words: numbers of the vocabulary.
        ends: seconds before the end of what was heard at which each word is said, (words,); None where no policy asks.
    """

    words: list[int]
    ends: np.ndarray | None = None


class Policy(Protocol):
    """One window's; the next window has its own.

    Attributes:
        needs_places: whether `Found.ends` is needed.
    """

    needs_places: bool

    def standing(self, found: Found) -> int:
        """How many of the words stand."""


class Retranslation:
    """No word stands until its window ends: all of it is translated anew at each step (Arivazhagan et al. 2020)."""

    needs_places = False

    def standing(self, found: Found) -> int:
        return 0


class LocalAgreement:
    """Words stand that two steps in a row have found (Liu et al. 2020, `LA-2`)."""

    needs_places = False

    def __init__(self):
        self._before: list[int] = []

    def standing(self, found: Found) -> int:
        agreed = common_prefix(self._before, found.words)
        self._before = found.words[agreed:]
        return agreed


class AlignAtt:
    """Words stand up to the first that reads mostly of the last half second (Papi et al. 2023, arXiv 2305.11408)."""

    needs_places = True

    def standing(self, found: Found) -> int:
        too_late = np.flatnonzero(found.ends < CUTOFF_SECONDS)
        return int(too_late[0]) if len(too_late) else len(found.words)


POLICIES = {"local-agreement": LocalAgreement, "alignatt": AlignAtt, "retranslation": Retranslation}


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many words two texts begin with alike."""
    return next((place for place, pair in enumerate(zip(one, other)) if pair[0] != pair[1]), min(len(one), len(other)))


def covered(words: list[int], text: list[int]) -> int:
    """How many of the first words a text has: those to which its edit distance is least, and of several numbers the largest."""
    costs = np.arange(len(words) + 1)
    places = np.arange(len(words) + 1)
    numbers = np.array(words, np.int64)
    for word in text:
        changed = costs + 1
        changed[1:] = np.minimum(changed[1:], costs[:-1] + (numbers != word))
        costs = np.minimum.accumulate(changed - places) + places  # left out words cost 1 each
    return int(len(words) - costs[::-1].argmin())
