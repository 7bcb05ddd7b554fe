"""Joining of subword pieces to text, as their tokenizers do it."""

import codecs
import re
from collections.abc import Iterable
from functools import cache
from itertools import groupby

WORD_START = "▁"  # sentencepiece's space symbol
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # sentencepiece's piece for a byte of a character without a piece
_BYTE_BETWEEN = re.compile("(<0x[0-9A-F]{2}>)")


def joined_pieces(pieces: Iterable[str]) -> str:
    """The text of sentencepiece's pieces, with a space for each ▁. A byte outside any valid character becomes U+FFFD."""
    text = ""
    for is_byte, group in groupby(filter(None, pieces), key=lambda piece: _BYTE.fullmatch(piece) is not None):
        if is_byte:
            text += bytes(int(piece[len("<0x") : -1], 16) for piece in group).decode("utf-8", errors=_EACH_BYTE)
        else:
            text += "".join(group).replace(WORD_START, " ")
    return text


def with_letters(text: str) -> str:
    """A text of fairseq's, with its byte pieces such as `<0xE7><0x88><0xB1>` replaced by the characters they encode."""
    return joined_pieces(_BYTE_BETWEEN.split(text))


def joined_letters(symbols: Iterable[str]) -> str:
    """The text of words whose letters stand for bytes. An added word with other letters is used as it is."""
    letters = _bytes_of_letters()
    words = [
        bytes(letters[letter] for letter in symbol) if letters.keys() >= set(symbol) else symbol.encode() for symbol in symbols
    ]
    return b"".join(words).decode("utf-8", errors="replace")


@cache
def _bytes_of_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: a visible character stands for itself, and the other bytes are numbered from 256."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """sentencepiece writes U+FFFD per byte, Python's "replace" one for several bytes."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


_EACH_BYTE = "residual_st.each_byte"
codecs.register_error(_EACH_BYTE, _replaced)
