"""Differences between a translation and its reference, by words or characters."""

from difflib import SequenceMatcher
from typing import NamedTuple

from residual_st.evaluation.units import Units


class Piece(NamedTuple):
    """Consecutive words or characters, and whether they match the reference."""

    text: str
    same: bool


def mark(reference: str, hypothesis: str, units: Units) -> list[Piece]:
    """The words of `hypothesis` in pieces. An empty piece with `same` False marks missing words of the reference."""
    reference_words, hypothesis_words = units.split(reference), units.split(hypothesis)
    pieces = []
    for kind, _, _, start, end in SequenceMatcher(None, reference_words, hypothesis_words, autojunk=False).get_opcodes():
        pieces.append(Piece(("" if units.characters else " ").join(hypothesis_words[start:end]), kind == "equal"))
    return pieces
