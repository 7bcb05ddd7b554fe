"""Where a translation departs from its reference, word by word."""

from difflib import SequenceMatcher
from typing import NamedTuple


class Piece(NamedTuple):
    """Words in a row that the reference has as well, or has not."""

    text: str
    same: bool


def mark(reference: str, hypothesis: str) -> list[Piece]:
    """The words of `hypothesis` in pieces; an empty piece that is not the same stands where words of the reference are missing."""
    reference_words, hypothesis_words = reference.split(), hypothesis.split()
    pieces = []
    for kind, _, _, start, end in SequenceMatcher(None, reference_words, hypothesis_words, autojunk=False).get_opcodes():
        pieces.append(Piece(" ".join(hypothesis_words[start:end]), kind == "equal"))
    return pieces
