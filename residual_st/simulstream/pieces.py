"""Words of a vocabulary as simulstream's tokens: texts in sentencepiece's way, with ▁ for a space, that put together are the text.

Its detokenizer is `detokenizer_type: simuleval` with `latency_unit: spm`, for every model.
"""

from residual_st.pieces import WORD_START, joined_letters, joined_pieces
from residual_st.runtime.vocabulary import Vocabulary

_LONGEST_LETTER = 4  # bytes


def text_of(tokens: list[str]) -> str:
    return "".join(tokens).replace(WORD_START, " ")


class Pieces:
    """Numbers to tokens and back. A token is of several words where one is but a part of a letter."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary, self._words = vocabulary, {}

    def tokens(self, words: list[int]) -> list[str]:
        """Hidden words are parts of the token behind them."""
        found, begin = [], 0
        for end in range(1, len(words) + 1):
            text = self._joined(words[begin:end])
            if not text or "\ufffd" in text and end - begin < _LONGEST_LETTER and end < len(words):
                continue
            self._words[text] = words[begin:end]
            found.append(text)
            begin = end
        return found

    def words(self, tokens: list[str]) -> list[int]:
        """Of tokens that `tokens` made."""
        return [word for token in tokens for word in self._words[token]]

    def _joined(self, words: list[int]) -> str:
        vocabulary = self._vocabulary
        symbols = [vocabulary.symbols[word] for word in words if word not in vocabulary.hidden]
        if vocabulary.pieces == "words":
            return "".join(WORD_START + symbol for symbol in symbols)
        return (joined_letters(symbols) if vocabulary.pieces == "bytes" else joined_pieces(symbols)).replace(" ", WORD_START)
