"""Conversion between word ids and text."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from residual_st.pieces import joined_letters, joined_pieces


@dataclass(frozen=True)
class Vocabulary:
    """A model's vocabulary.

    Attributes:
        symbols: the symbol of each id.
        pieces: "sentencepiece"; "words" if symbols are whole words; "bytes" if their letters stand for bytes, as in GPT-2.
        start: the decoder's first input word.
        begin: words that every text begins with, after those for task and languages.
        eos: the end symbol.
        pad, unk: padding and unknown word; None if the model has none. Padding is never generated.
        hidden: ids that do not belong to the text.
        prompted: whether the initial words are given to the decoder before the search, as in transformers, or within it, where they
            count in length and score, as in fairseq.
        suppressed, begin_suppressed: words that are never generated, and words that are never generated first.
        replaced: pairs (text, replacement) applied to a text in this order.
    """

    symbols: list[str]
    pieces: str
    start: int
    begin: list[int]
    eos: int
    pad: int | None
    unk: int | None
    hidden: list[int]
    prompted: bool = False
    suppressed: list[int] = field(default_factory=list)
    begin_suppressed: list[int] = field(default_factory=list)
    replaced: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        special = [each for each in (self.pad, self.unk) if each is not None]
        self.check([self.start, *self.begin, self.eos, *special, *self.hidden, *self.suppressed, *self.begin_suppressed])
        if not all(isinstance(text, str) for text in (*self.symbols, *(text for pair in self.replaced for text in pair))):
            raise TypeError("every symbol must be a string")
        if not all(len(pair) == 2 for pair in self.replaced):
            raise ValueError("replaced must contain pairs")

    def check(self, numbers: Iterable[int]) -> None:
        """Raise ValueError if one of these is not a word id."""
        if not all(isinstance(number, int) and 0 <= number < len(self.symbols) for number in numbers):
            raise ValueError("a special symbol is not among the symbols")

    def opening(self, selecting: list[int]) -> tuple[list[int], list[int]]:
        """The decoder's prompt before the search, and the words that a text begins with.

        Args:
            selecting: the words for the task and the languages.
        """
        begin = [*selecting, *self.begin]
        return ([self.start, *begin], []) if self.prompted else ([self.start], begin)

    def text(self, tokens: Iterable[int]) -> str:
        """The text of words, joined as by sentencepiece, fairseq's dictionary or Whisper's tokenizer, and stripped of spaces."""
        hidden = set(self.hidden)
        symbols = [self.symbols[token] for token in tokens if token not in hidden]
        if self.pieces == "words":
            return " ".join(symbols)
        text = joined_letters(symbols) if self.pieces == "bytes" else joined_pieces(symbols)
        for what, by_what in self.replaced:
            text = text.replace(what, by_what)
        return text.strip(" ")
