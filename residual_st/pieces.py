"""Pieces of words as text, as those who cut them put them together."""

import codecs
import re
from collections.abc import Iterable
from functools import cache
from itertools import groupby

WORD_START = "▁"  # sentencepiece's mark of a space
_BYTE = re.compile("<0x([0-9A-F]{2})>")  # its piece for a byte of a letter that has no piece
_BYTE_BETWEEN = re.compile("(<0x[0-9A-F]{2}>)")


def joined_pieces(pieces: Iterable[str]) -> str:
    """The text of sentencepiece's pieces, with a space for each ▁. A byte that belongs to no letter becomes U+FFFD."""
    text = ""
    for is_byte, group in groupby(filter(None, pieces), key=lambda piece: _BYTE.fullmatch(piece) is not None):
        if is_byte:
            text += bytes(int(_BYTE.fullmatch(piece)[1], 16) for piece in group).decode("utf-8", errors=_EACH_BYTE)
        else:
            text += "".join(group).replace(WORD_START, " ")
    return text


def with_letters(text: str) -> str:
    """A text in which fairseq has written sentencepiece's pieces for bytes as they are, `<0xE7><0x88><0xB1>`."""
    return joined_pieces(_BYTE_BETWEEN.split(text))


def joined_letters(symbols: Iterable[str]) -> str:
    """The text of words whose letters stand for bytes. One with another letter, which was added to them, is its own text."""
    letters = _bytes_of_letters()
    words = [
        bytes(letters[letter] for letter in symbol) if letters.keys() >= set(symbol) else symbol.encode() for symbol in symbols
    ]
    return b"".join(words).decode("utf-8", errors="replace")


@cache
def _bytes_of_letters() -> dict[str, int]:
    """GPT-2 writes a byte as the letter of this number if it is one that can be seen, and the others from number 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(others)}


_EACH_BYTE = "residual_st.each_byte"  # sentencepiece puts U+FFFD for each byte, and Python's "replace" for several at once
codecs.register_error(_EACH_BYTE, lambda error: ("\ufffd" * (error.end - error.start), error.end))
