"""The search for texts in one direction, with fallback."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from residual_st.errors import refusing
from residual_st.languages import Direction
from residual_st.runtime.beam_search import BeamSearch, Hypothesis
from residual_st.runtime.decoding import Source
from residual_st.runtime.folder import Folder
from residual_st.runtime.rules import Rules
from residual_st.runtime.sampling import draw
from residual_st.runtime.settings import Settings


class Search:
    """A search for a model's texts.

    Attributes:
        prefix: words at the start of each hypothesis's tokens that do not belong to its text.

    Args:
        folder: the exported model.
        settings: search settings.
        direction: a fully known direction of the model.
        with_times: whether texts have the model's timestamps.
    """

    def __init__(self, folder: Folder, settings: Settings, direction: Direction, with_times: bool = False):
        self._folder, self._settings = folder, settings.completed(folder.settings)
        self._timestamps = folder.timestamps if with_times else None
        self._prompt, self.prefix = folder.vocabulary.opening(folder.languages.words(direction))
        if self._timestamps is not None:
            self._prompt = [word for word in self._prompt if word != self._timestamps.none]

    def best(self, source: Source, earlier: Sequence[int] = ()) -> list[list[Hypothesis]]:
        """The best hypotheses of each utterance that begin with the words `earlier`, of the text of an earlier step."""
        beam = self._settings.beam
        with refusing(f"the graphs of {self._folder.path} cannot be run"):
            state = source.decoding(beam)
            return BeamSearch(state.step, state.keep, self._rules(source, earlier), self._settings, self._prompt).run(
                source.utterances
            )

    def sampled(self, source: Source, temperature: float, random: np.random.Generator, earlier: Sequence[int] = ()) -> Hypothesis:
        """One sampled text of one utterance; at temperature 0 greedy."""
        with refusing(f"the graphs of {self._folder.path} cannot be run"):
            return draw(source.decoding(1).step, self._rules(source, earlier), self._prompt, temperature, random)

    def accepted(self, source: Source, random: np.random.Generator, earlier: Sequence[int] = ()) -> list[Hypothesis]:
        """The best hypotheses of one utterance, from the first search whose text the fallback rules accept.

        If no text is accepted, returns the likeliest text of the search unless it is a repetition loop; sampled texts are never
        returned then. Returns none for silence, or if all texts are loops. Without timestamps the likeliest text may be a guess,
        for agreement with transformers' generate.
        """
        fallback, vocabulary, likeliest = self._folder.fallback, self._folder.vocabulary, []
        has_times = self._timestamps is not None
        for temperature in fallback.temperatures:
            # with timestamps, probabilities are normalised over the allowed words, as Whisper's authors do
            is_sampled = temperature or has_times and self._settings.beam == 1
            texts = [self.sampled(source, temperature, random, earlier)] if is_sampled else self.best(source, earlier)[0]
            is_guess = fallback.is_guess(texts[0]) and bool(temperature or has_times)
            if is_guess and self._is_silent(source):
                return []
            if not fallback.repeats_itself(texts[0], vocabulary.eos, len(vocabulary.symbols)):
                if not is_guess:
                    return texts
                if not temperature:
                    likeliest = texts
        return likeliest

    def _is_silent(self, source: Source) -> bool:
        """Whether an utterance whose text is a guess is silence; only models with timestamps can tell."""
        if self._timestamps is None:
            return False
        return self._folder.fallback.is_silence(float(np.exp(source.first_words[0, self._timestamps.silence])))

    def attention(self, source: Source, words: list[int]) -> np.ndarray:
        """Attention of each word of a text to each state of one utterance: (words, time)."""
        with refusing(f"the graphs of {self._folder.path} cannot be run"):
            return source.attention(self._prompt, [*self.prefix, *words])[len(self.prefix) :]

    def _rules(self, source: Source, earlier: Sequence[int]) -> Rules:
        longest = source.longest_text(self._settings, len(self._prompt))
        return Rules(self._folder.vocabulary, self._settings, longest, self.prefix, self._timestamps, earlier)


def in_source_language(source: Source, folder: Folder, direction: Direction) -> Direction:
    """The direction with the detected language of the first utterance as its source language."""
    (code, *_) = source.detected_languages()
    return folder.languages.resolved(replace(direction, source_lang=code))
