"""Words as numbers, and pieces of words as text."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from residual_st.errors import InputError

_WORD_START = "▁"  # sentencepiece's mark of a space


@dataclass(frozen=True)
class Vocabulary:
    """A model's words.

    Attributes:
        symbols: what each number stands for.
        pieces: "sentencepiece"; "words" where symbols are whole words; "bytes" where their letters stand for bytes, as in GPT-2.
        start: what the decoder is given first.
        begin: words that every text begins with, behind the language's tag.
        eos: what ends a text.
        pad, unk: words that never follow, and that is no word; None where there is none.
        languages: name of a target language -> its tag; none for a model of one.
        hidden: numbers that are no part of a text.
    """

    symbols: list[str]
    pieces: str
    start: int
    begin: list[int]
    eos: int
    pad: int | None
    unk: int | None
    languages: dict[str, int]
    hidden: list[int]

    def __post_init__(self):
        special = [each for each in (self.pad, self.unk) if each is not None]
        numbers = [self.start, *self.begin, self.eos, *special, *self.languages.values(), *self.hidden]
        if not all(isinstance(number, int) and 0 <= number < len(self.symbols) for number in numbers):
            raise ValueError("a special symbol is not among the symbols")
        if not all(isinstance(symbol, str) for symbol in self.symbols):
            raise TypeError("a symbol is no text")

    def prefix(self, language: str | None) -> list[int]:
        """What the text begins with. Raises InputError where the language is not one of the model's."""
        if not self.languages:
            if language is not None:
                raise InputError(f"--lang {language}: the model has one target language and takes none")
            return self.begin
        if language not in self.languages:
            given = f"--lang {language} is not known" if language is not None else "--lang is missing"
            raise InputError(f"{given}; allowed are {', '.join(self.languages)}")
        return [self.languages[language], *self.begin]

    def text(self, tokens: Iterable[int]) -> str:
        """As fairseq-generate, or Whisper's tokenizer, joins them."""
        hidden = set(self.hidden)
        symbols = [self.symbols[token] for token in tokens if token not in hidden]
        if self.pieces == "words":
            return " ".join(symbols)
        if self.pieces == "bytes":
            letters = _bytes_of_letters()
            return bytes(letters[letter] for symbol in symbols for letter in symbol).decode("utf-8", errors="replace").strip()
        return "".join(symbols).replace(_WORD_START, " ").strip()


@cache
def _bytes_of_letters() -> dict[str, int]:
    """GPT-2 writes a byte as the letter of this number if it is one that can be seen, and the others from number 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(others)}
