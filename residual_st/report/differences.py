"""Where a translation departs from its reference, word by word, or character by character."""

from difflib import SequenceMatcher
from typing import NamedTuple

from residual_st.evaluation.units import Units


class Piece(NamedTuple):
    """Words, or characters, in a row that the reference has as well, or has not."""

    text: str
    same: bool


def mark(reference: str, hypothesis: str, units: Units) -> list[Piece]:
    """The words of `hypothesis` in pieces; an empty piece that is not the same stands where words of the reference are missing."""
    reference_words, hypothesis_words = units.split(reference), units.split(hypothesis)
    pieces = []
    for kind, _, _, start, end in SequenceMatcher(None, reference_words, hypothesis_words, autojunk=False).get_opcodes():
        pieces.append(Piece(("" if units.characters else " ").join(hypothesis_words[start:end]), kind == "equal"))
    return pieces
