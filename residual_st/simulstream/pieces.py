"""Conversion of a vocabulary's words to simulstream's tokens: strings with ▁ for a space, as in sentencepiece.

simulstream's detokenizer for them is `detokenizer_type: simuleval` with `latency_unit: spm`, for every model.
"""

from residual_st.pieces import WORD_START, joined_letters, joined_pieces
from residual_st.runtime.vocabulary import Vocabulary

_LONGEST_LETTER = 4  # bytes


def text_of(tokens: list[str]) -> str:
    return "".join(tokens).replace(WORD_START, " ")


class Pieces:
    """Conversion of word ids to tokens and back. A token has several words if a word is a part of a character."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._words: dict[str, list[int]] = {}

    def tokens(self, words: list[int]) -> list[str]:
        """Words to tokens. Hidden words belong to the token after them."""
        tokens, begin = [], 0
        for end in range(1, len(words) + 1):
            text = self._joined(words[begin:end])
            if not text or "\ufffd" in text and end - begin < _LONGEST_LETTER and end < len(words):
                continue
            self._words[text] = words[begin:end]
            tokens.append(text)
            begin = end
        return tokens

    def words(self, tokens: list[str]) -> list[int]:
        """Words of tokens made by `tokens`."""
        return [word for token in tokens for word in self._words[token]]

    def _joined(self, words: list[int]) -> str:
        vocabulary = self._vocabulary
        symbols = [vocabulary.symbols[word] for word in words if word not in vocabulary.hidden]
        if vocabulary.pieces == "words":
            return "".join(WORD_START + symbol for symbol in symbols)
        return (joined_letters(symbols) if vocabulary.pieces == "bytes" else joined_pieces(symbols)).replace(" ", WORD_START)
