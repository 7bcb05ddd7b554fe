"""What a window says behind the words that stand, with or without a decoder."""

from collections.abc import Sequence

import numpy as np

from residual_st.languages import AUTO, Direction
from residual_st.runtime.ctc import best_frames
from residual_st.runtime.model import Model
from residual_st.runtime.search import Search, in_source_language
from residual_st.runtime.settings import Settings
from residual_st.streaming.policies import Found, covered
from residual_st.streaming.sources import Encoded


class DecodedTexts:
    """Of a model with a decoder, which is given the words that stand.

    Args:
        direction: resolved; a language that is to be detected is that of the first window that ends.
    """

    def __init__(self, model: Model, settings: Settings, direction: Direction):
        self._model, self._settings, self._asked = model, settings, direction
        self._search = None if direction.source_lang == AUTO else model.search_in(settings, direction)

    def found(self, encoded: Encoded, words: Sequence[int], with_places: bool) -> Found:
        """What the search finds in an open window; nothing where its text repeats itself."""
        search, folder = self._search_of(encoded), self._model.folder
        best = search.best(encoded.source, words)[0][0]
        if folder.fallback.repeats_itself(best, folder.vocabulary.eos, len(folder.vocabulary.symbols)):
            return Found([], np.zeros(0))
        new = best.tokens[len(search.prefix) + len(words) :]
        if not with_places or not new:
            return Found(new, np.zeros(0))
        read = _most_read(search.attention(encoded.source, [*words, *new])[:, : encoded.states])[-len(new) :]
        return Found(new, (encoded.states - 1 - read) * encoded.seconds)

    def last(self, encoded: Encoded, words: Sequence[int], random: np.random.Generator) -> list[int]:
        """The rest of a window that ends, as `translate` finds it."""
        search = self._search_of(encoded)
        texts = search.believed(encoded.source, random, words)
        return texts[0].tokens[len(search.prefix) + len(words) :] if texts else []

    def window_ended(self, encoded: Encoded) -> None:
        """The language of the first window is that of all."""
        self._search = self._search_of(encoded)

    def _search_of(self, encoded: Encoded) -> Search:
        if self._search is not None:
            return self._search
        return self._model.search_in(self._settings, in_source_language(encoded.source, self._model.folder, self._asked))


def _most_read(attention: np.ndarray) -> np.ndarray:
    """Attention (words, states) -> the state that each word reads most of, in comparison with the other words: there are states,
    such as the first or the last, that all words read of. simulstream does the same."""
    deviation = attention.std(axis=0)
    return ((attention - attention.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)).argmax(axis=1)


class CtcTexts:
    """Of a model without its decoder: CTC cannot be given words, so those that stand are looked for in all that it writes."""

    def __init__(self, model: Model, settings: Settings, direction: Direction):
        model.search_in(settings, direction)  # refuses settings that are not for such models
        self._blank = model.folder.vocabulary.eos

    def found(self, encoded: Encoded, words: Sequence[int], with_places: bool) -> Found:
        new, states = self._behind(encoded, words)
        return Found(new, (encoded.states - 1 - states) * encoded.seconds, encoded.are_final)

    def last(self, encoded: Encoded, words: Sequence[int], random: np.random.Generator) -> list[int]:
        new, _ = self._behind(encoded, words)
        return new

    def window_ended(self, encoded: Encoded) -> None:
        """There is no language to be detected."""

    def _behind(self, encoded: Encoded, words: Sequence[int]) -> tuple[list[int], np.ndarray]:
        text, states = best_frames(encoded.source.log_probs[0, : encoded.states], self._blank)
        done = covered(text, words)
        return text[done:], states[done:]
