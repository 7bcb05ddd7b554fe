"""Policies: how many of the words that were just found stand, and are never taken back.

Each is told what was found behind the words that stand already, at each step of one window.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

CUTOFF_SECONDS = 0.5


class Found(NamedTuple):
    """Words behind those that stand.

    Attributes:
        words: numbers of the vocabulary.
        ends: seconds before the end of what was heard at which each word is said, (words,); None where no policy asks.
        are_final: whether what follows cannot change them, whatever it is.
    """

    words: list[int]
    ends: np.ndarray | None = None
    are_final: bool = False


class Policy(Protocol):
    """One window's; the next window has its own.

    Attributes:
        needs_places: whether `Found.ends` is needed.
        is_of_ctc: whether the words are those of the CTC head, though there is a decoder.
    """

    needs_places: bool
    is_of_ctc: bool

    def standing(self, found: Found) -> int:
        """How many of the words stand."""


class Retranslation:
    """No word stands until its window ends: all of it is translated anew at each step (Arivazhagan et al. 2020)."""

    needs_places = is_of_ctc = False

    def standing(self, found: Found) -> int:
        return 0


class LocalAgreement:
    """Words stand that two steps in a row have found (Liu et al. 2020, `LA-2`), except the last one: that a text ends there, with a
    full stop, is said by the sound's end, and the sound continues."""

    needs_places = is_of_ctc = False

    def __init__(self):
        self._before: list[int] = []

    def standing(self, found: Found) -> int:
        agreed = min(common_prefix(self._before, found.words), max(0, len(found.words) - 1))
        self._before = found.words[agreed:]
        return agreed


class AlignAtt:
    """Words stand up to the first that reads mostly of the last half second (Papi et al. 2023, arXiv 2305.11408)."""

    needs_places, is_of_ctc = True, False

    def standing(self, found: Found) -> int:
        too_late = np.flatnonzero(found.ends < CUTOFF_SECONDS)
        return int(too_late[0]) if len(too_late) else len(found.words)


class GreedyCtc(AlignAtt):
    """Words of the CTC head stand as soon as they are final: the frame in which they begin is encoded, once and for all, by an
    encoder that is fed in chunks. By one that takes whole windows none is; there they stand when they are half a second old."""

    is_of_ctc = True

    def standing(self, found: Found) -> int:
        return len(found.words) if found.are_final else super().standing(found)


POLICIES = {"local-agreement": LocalAgreement, "alignatt": AlignAtt, "retranslation": Retranslation, "ctc": GreedyCtc}


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


def between_words(words: list[int], here: int, written: Callable[[list[int]], str]) -> int:
    """The place nearest to `here` at which a text can be cut in two with a space between them; `here` where there is none.

    Args:
        words: pieces of the text.
        here: how many of them come before the cut.
        written: pieces -> text.
    """
    if here in (0, len(words)):
        return here
    text = written(words)
    places = [place for place in range(1, len(words)) if f"{written(words[:place])} {written(words[place:])}" == text]
    return min(places, key=lambda place: abs(place - here), default=here)
