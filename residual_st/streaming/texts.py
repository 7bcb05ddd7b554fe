"""Decoding of a window's words after the committed words, with or without a decoder."""

from collections.abc import Sequence

import numpy as np

from residual_st.languages import AUTO, Direction
from residual_st.runtime.ctc import CtcSearch, Frames, best_frames
from residual_st.runtime.decoding import Source
from residual_st.runtime.model import Model
from residual_st.runtime.search import Search, in_source_language
from residual_st.runtime.settings import Settings
from residual_st.streaming.policies import Candidate, covered
from residual_st.streaming.sources import Encoded


class DecodedTexts:
    """Decoding by a decoder, whose prefix is the committed words.

    Args:
        direction: a resolved direction; a language to be detected is that of the first complete window.
    """

    def __init__(self, model: Model, settings: Settings, direction: Direction):
        self._model, self._settings, self._direction = model, settings, direction
        self._search = None if direction.source_lang == AUTO else Search(model.folder, settings, direction)

    def candidate(self, encoded: Encoded[Source], words: Sequence[int], with_places: bool) -> Candidate:
        """The search's words for an open window; none if its text is a repetition loop."""
        search, folder = self._search_of(encoded), self._model.folder
        best = search.best(encoded.source, words)[0][0]
        if folder.fallback.repeats_itself(best, folder.vocabulary.eos, len(folder.vocabulary.symbols)):
            return Candidate([])
        new = best.tokens[len(search.prefix) + len(words) :]
        if not with_places or not new:
            return Candidate(new)
        read = _most_read(search.attention(encoded.source, [*words, *new])[:, : encoded.states])[-len(new) :]
        return Candidate(new, (encoded.states - 1 - read) * encoded.seconds)

    def last(self, encoded: Encoded[Source], words: Sequence[int], random: np.random.Generator) -> list[int]:
        """The remaining words of a complete window, decoded like `translate` does."""
        search = self._search_of(encoded)
        texts = search.accepted(encoded.source, random, words)
        return texts[0].tokens[len(search.prefix) + len(words) :] if texts else []

    def window_ended(self, encoded: Encoded[Source]) -> None:
        """Keep the detected language of the first window for all."""
        self._search = self._search_of(encoded)

    def _search_of(self, encoded: Encoded[Source]) -> Search:
        if self._search is not None:
            return self._search
        folder = self._model.folder
        return Search(folder, self._settings, in_source_language(encoded.source, folder, self._direction))


def _most_read(attention: np.ndarray) -> np.ndarray:
    """Attention (words, states) -> the state that each word attends to most, relative to the other words, since all words attend to
    some states, such as the first or the last. simulstream does the same."""
    deviation = attention.std(axis=0)
    return ((attention - attention.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)).argmax(axis=1)


class CtcTexts:
    """Decoding by CTC. CTC takes no prefix, so the committed words are aligned with the whole CTC output."""

    def __init__(self, model: Model, settings: Settings):
        CtcSearch(model.folder, settings)  # raises for settings that CTC does not support
        self._blank = model.folder.vocabulary.eos

    def candidate(self, encoded: Encoded[Frames], words: Sequence[int], with_places: bool) -> Candidate:
        new, states = self._behind(encoded, words)
        return Candidate(new, (encoded.states - 1 - states) * encoded.seconds, encoded.are_final)

    def last(self, encoded: Encoded[Frames], words: Sequence[int], random: np.random.Generator) -> list[int]:
        new, _ = self._behind(encoded, words)
        return new

    def window_ended(self, encoded: Encoded[Frames]) -> None:
        """Nothing to do: CTC detects no language."""

    def _behind(self, encoded: Encoded[Frames], words: Sequence[int]) -> tuple[list[int], np.ndarray]:
        text, states = best_frames(encoded.source.log_probs[0, : encoded.states], self._blank)
        done = covered(text, words)
        return text[done:], states[done:]
