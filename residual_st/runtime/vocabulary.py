"""Words as numbers, and pieces of words as text."""

from collections.abc import Iterable
from dataclasses import dataclass

from residual_st.errors import InputError

_WORD_START = "▁"  # sentencepiece's mark of a space


@dataclass(frozen=True)
class Vocabulary:
    """fairseq's dictionary.

    Attributes:
        symbols: what each number stands for.
        pieces: "sentencepiece", or "words" where symbols are whole words.
        bos, pad, eos, unk: numbers of special symbols.
        languages: tag of a target language -> its number; none for a model of one.
    """

    symbols: list[str]
    pieces: str
    bos: int
    pad: int
    eos: int
    unk: int
    languages: dict[str, int]

    def __post_init__(self):
        numbers = [self.bos, self.pad, self.eos, self.unk, *self.languages.values()]
        if not all(isinstance(number, int) and 0 <= number < len(self.symbols) for number in numbers):
            raise ValueError("a special symbol is not among the symbols")
        if not all(isinstance(symbol, str) for symbol in self.symbols):
            raise TypeError("a symbol is no text")

    def prefix(self, language: str | None) -> list[int]:
        """What the text begins with: the tag of the language. Raises InputError where it is not one of the model's."""
        if not self.languages:
            if language is not None:
                raise InputError(f"--lang {language}: the model has one target language and takes none")
            return []
        if language not in self.languages:
            given = f"--lang {language} is not known" if language is not None else "--lang is missing"
            raise InputError(f"{given}; allowed are {', '.join(self.languages)}")
        return [self.languages[language]]

    def text(self, tokens: Iterable[int]) -> str:
        """As fairseq-generate joins them; tags and special symbols but `<unk>` left out."""
        hidden = {self.bos, self.pad, self.eos, *self.languages.values()}
        symbols = [self.symbols[token] for token in tokens if token not in hidden]
        if self.pieces == "words":
            return " ".join(symbols)
        return "".join(symbols).replace(_WORD_START, " ").strip()
