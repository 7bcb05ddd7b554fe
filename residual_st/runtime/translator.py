"""Recordings of any length to text with time stamps."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from residual_st.audio.pauses import spans_between_pauses
from residual_st.audio.reading import MOST_SAMPLES, audio_name, read_audio
from residual_st.errors import InputError
from residual_st.runtime.beam_search import Settings
from residual_st.runtime.model import Model


@dataclass(frozen=True)
class Segment:
    """A piece of a recording: seconds from its start, the text, and the other hypotheses as (text, score), the best first."""

    start: float
    end: float
    text: str
    hypotheses: list[tuple[str, float]]


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording of so many seconds. Without speech it has no segments, and no text."""

    seconds: float
    segments: list[Segment]

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments if segment.text)


class Translator:
    """Translates, or transcribes, recordings with an exported model. May be used from several threads at once.

    Attributes:
        lengths: those that recordings are cut into.

    Args:
        model: a folder that `residual-st export` wrote, or one that is loaded already.
        settings: of the search.
        language: to translate into, for models of several.
        threads: of one recording.
        longest_seconds: of a piece between pauses; longer ones are cut where they are quietest. None for what the model was trained
            on.
        most_samples: of a file, as `residual_st.audio.reading.read_audio` has it.

    Raises:
        InputError: if the folder cannot be used, or the language or the length is not the model's.
    """

    def __init__(
        self,
        model: str | Path | Model,
        settings: Settings = Settings(),  # noqa: B008 - frozen
        *,
        language: str | None = None,
        threads: int = 1,
        longest_seconds: float | None = None,
        most_samples: int = MOST_SAMPLES,
    ):
        self._model = model if isinstance(model, Model) else Model(model, threads)
        self._settings, self._language, self._most_samples = settings, language, most_samples
        self._model.vocabulary.opening(language)
        settings.completed(self._model.folder.settings)
        self.lengths = self._model.folder.lengths.limited(longest_seconds, self._model.folder.longest_seconds)

    @property
    def sample_rate(self) -> int:
        """Hz, of samples that are translated."""
        return self._model.folder.sample_rate

    def translate(self, audio, rate: int | None = None) -> Transcript:
        """What is said in a recording.

        Args:
            audio: a file, or samples, as `residual_st.audio.reading.read_audio` takes them.
            rate: Hz, of samples; None for the model's.

        Raises:
            InputError: if the audio cannot be read or is empty.
        """
        samples = read_audio(audio, self.sample_rate, rate, self._most_samples)
        if len(samples) < self._model.folder.shortest_samples:
            raise InputError(f"{audio_name(audio)} is shorter than one frame of 25 ms")
        spans = spans_between_pauses(samples, self.sample_rate, self.lengths)
        segments = [self._segment(samples, start, end) for start, end in spans]
        return Transcript(len(samples) / self.sample_rate, segments)

    def _segment(self, samples: np.ndarray, start: int, end: int) -> Segment:
        hypotheses = []
        if end - start >= self._model.folder.shortest_samples:
            (found,) = self._model.search([samples[start:end]], self._settings, self._language)
            hypotheses = [(self._model.vocabulary.text(each.tokens), each.score) for each in found]
        text = hypotheses[0][0] if hypotheses else ""
        return Segment(start / self.sample_rate, end / self.sample_rate, text, hypotheses)
