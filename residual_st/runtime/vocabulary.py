"""Words as numbers, and as text."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from residual_st.pieces import joined_letters, joined_pieces


@dataclass(frozen=True)
class Vocabulary:
    """A model's words.

    Attributes:
        symbols: what each number stands for.
        pieces: "sentencepiece"; "words" where symbols are whole words; "bytes" where their letters stand for bytes, as in GPT-2.
        start: what the decoder is given first.
        begin: words that every text begins with, behind those that ask for a task and languages.
        eos: what ends a text.
        pad, unk: words that never follow, and that is no word; None where there is none.
        hidden: numbers that are no part of a text.
        prompted: whether the decoder is given what a text begins with before the search, as transformers does it, or within it,
            where it counts in length and score, as in fairseq.
        suppressed, begin_suppressed: words that never follow, and those that no text begins with, behind what all begin with.
        replaced: pairs (what, by what) that a text is brought into form with, in this order.
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

    def __post_init__(self):
        special = [each for each in (self.pad, self.unk) if each is not None]
        self.check([self.start, *self.begin, self.eos, *special, *self.hidden, *self.suppressed, *self.begin_suppressed])
        if not all(isinstance(text, str) for text in (*self.symbols, *(text for pair in self.replaced for text in pair))):
            raise TypeError("a symbol is no text")
        if not all(len(pair) == 2 for pair in self.replaced):
            raise ValueError("replaced are no pairs")

    def check(self, numbers: Iterable[int]) -> None:
        """Raise ValueError if one of these is not a word's."""
        if not all(isinstance(number, int) and 0 <= number < len(self.symbols) for number in numbers):
            raise ValueError("a special symbol is not among the symbols")

    def opening(self, asked: list[int]) -> tuple[list[int], list[int]]:
        """What the decoder is given before the search, and what a text begins with.

        Args:
            asked: the words for the task and the languages.
        """
        begin = [*asked, *self.begin]
        return ([self.start, *begin], []) if self.prompted else ([self.start], begin)

    def text(self, tokens: Iterable[int]) -> str:
        """As sentencepiece, fairseq's dictionary or Whisper's tokenizer joins them, without spaces around it."""
        hidden = set(self.hidden)
        symbols = [self.symbols[token] for token in tokens if token not in hidden]
        if self.pieces == "words":
            return " ".join(symbols)
        text = joined_letters(symbols) if self.pieces == "bytes" else joined_pieces(symbols)
        for what, by_what in self.replaced:
            text = text.replace(what, by_what)
        return text.strip(" ")
