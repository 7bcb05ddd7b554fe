"""Translation of recordings of any length to text with timestamps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from residual_st.audio.lengths import Lengths
from residual_st.audio.pauses import CLOSE, spans_between_pauses
from residual_st.audio.reading import MOST_SAMPLES, Audio, audio_name, read_audio
from residual_st.errors import InputError
from residual_st.languages import AUTO, Direction
from residual_st.runtime.ctc import CtcSearch
from residual_st.runtime.decoding import Source
from residual_st.runtime.model import Model
from residual_st.runtime.search import Search, in_source_language
from residual_st.runtime.settings import Settings
from residual_st.runtime.timestamps import TimeStamps
from residual_st.runtime.windows import Texts, sentences

SEED = 1  # random seed for sampled texts, reset for each recording


@dataclass(frozen=True)
class Segment:
    """A piece of a recording: start and end in seconds, the text, and the hypotheses as (text, score), the best first."""

    start: float
    end: float
    text: str
    hypotheses: list[tuple[str, float]]


@dataclass(frozen=True)
class Transcript:
    """The text of a recording of `seconds` s. Without speech it has no segments and an empty text.

    `direction` is the direction used, with the detected source language if it was `auto`.
    """

    seconds: float
    segments: list[Segment]
    direction: Direction = Direction()

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments if segment.text)


class Translator:
    """Translates or transcribes recordings with an exported model. May be used from several threads at once.

    Attributes:
        lengths: lengths of the segments that recordings are cut into, for a model without timestamps.

    Args:
        model: a folder written by `residual-st export`, or a loaded `Model`.
        settings: search settings.
        task: see `Direction`; None for the folder's setting.
        source_lang: see `Direction`; None for the folder's setting.
        target_lang: see `Direction`; None for the folder's setting.
        timestamps: whether to decode short recordings with the model's timestamps too, if it has them. Recordings longer than its
            window always are, unless `longest_seconds` is given or `nbest` is above 1.
        threads: number of threads per recording.
        longest_seconds: maximum length of a segment between pauses; longer ones are cut where they are quietest. None for the
            lengths that the model was trained on.
        most_samples: maximum length of a file, see `residual_st.audio.reading.read_audio`.

    Raises:
        InputError: if the folder cannot be used, or the model does not support the direction or the length.
    """

    def __init__(
        self,
        model: str | Path | Model,
        settings: Settings = Settings(),  # noqa: B008 - frozen
        *,
        task: str | None = None,
        source_lang: str | None = None,
        target_lang: str | None = None,
        timestamps: bool = False,
        threads: int = 1,
        longest_seconds: float | None = None,
        most_samples: int = MOST_SAMPLES,
    ):
        self._model = model if isinstance(model, Model) else Model(model, threads)
        self._settings, self._most_samples, self._times_short_ones = settings, most_samples, timestamps
        folder = self._model.folder
        self._direction = folder.languages.resolved(Direction(task, source_lang, target_lang))
        if folder.has_decoder:
            settings.completed(folder.settings)
        else:
            CtcSearch(folder, settings)  # raises for settings that CTC does not support
        self.lengths = folder.lengths.limited(longest_seconds, folder.longest_seconds)
        self._window = int(folder.longest_seconds * folder.sample_rate)
        self._timestamps = folder.timestamps if longest_seconds is None and settings.nbest == 1 else None

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model in Hz."""
        return self._model.folder.sample_rate

    def translate(self, audio: Audio, rate: int | None = None) -> Transcript:
        """Translate or transcribe a recording.

        Args:
            audio: a file or samples, see `residual_st.audio.reading.read_audio`.
            rate: sample rate of samples in Hz; None for the model's.

        Raises:
            InputError: if the audio cannot be read or is empty.
        """
        samples = read_audio(audio, self.sample_rate, rate, self._most_samples)
        if len(samples) < self._model.folder.shortest_samples:
            raise InputError(f"{audio_name(audio)} is shorter than one frame (25 ms)")
        seconds, spans = len(samples) / self.sample_rate, self._spans(samples)
        if not spans:
            return Transcript(seconds, [], self._direction)
        times = self._timestamps if self._times_short_ones or len(samples) > self._window else None
        if self._model.folder.has_decoder:
            texts, direction = self._by_decoder(samples, spans, with_times=times is not None)
        else:
            texts, direction = self._by_ctc(samples), self._direction
        return Transcript(seconds, [segment for span in spans for segment in self._segments(texts, span, times)], direction)

    def _by_decoder(self, samples: np.ndarray, spans: list[tuple[int, int]], with_times: bool) -> tuple[Texts, Direction]:
        """The decoder's texts of a recording, and the direction with the detected language."""
        source_of = lru_cache(maxsize=1)(lambda start, end: self._model.decoder_source([samples[start:end]]))
        direction, random = self._detected(source_of, spans, len(samples)), np.random.default_rng(SEED)
        search = Search(self._model.folder, self._settings, direction, with_times)
        return lambda start, end: search.accepted(source_of(start, end), random), direction

    def _by_ctc(self, samples: np.ndarray) -> Texts:
        search = CtcSearch(self._model.folder, self._settings)
        return lambda start, end: search.accepted(self._model.ctc_frames([samples[start:end]]))

    def _spans(self, samples: np.ndarray) -> list[tuple[int, int]]:
        """Spans to decode: the segments between pauses or, with timestamps, all audio between pauses of more than 2 s."""
        if self._timestamps is None:
            return spans_between_pauses(samples, self.sample_rate, self.lengths)
        whole = len(samples) / self.sample_rate + CLOSE
        spans = spans_between_pauses(samples, self.sample_rate, Lengths(whole, whole))
        close = round(CLOSE * self.sample_rate)
        if spans and spans[0][0] <= close:
            spans[0] = (0, spans[0][1])
        if spans and spans[-1][1] >= len(samples) - close:
            spans[-1] = (spans[-1][0], len(samples))
        return spans

    def _detected(self, source_of: Callable[[int, int], Source], spans: list[tuple[int, int]], samples: int) -> Direction:
        """The direction, with the language of the recording's first window, or of the first one with speech."""
        if self._direction.source_lang != AUTO:
            return self._direction
        start = 0 if spans[0][0] < self._window else spans[0][0]
        return in_source_language(source_of(start, min(start + self._window, samples)), self._model.folder, self._direction)

    def _segments(self, texts: Texts, span: tuple[int, int], times: TimeStamps | None) -> list[Segment]:
        """The segments of a span by timestamps; without them, the span as one segment."""
        folder, (start, end) = self._model.folder, span
        if times is not None:
            timed = [(each, folder.vocabulary.text(each.tokens)) for each in sentences(folder, times, texts, span)]
            return [self._segment(each.start, each.end, [(text, each.score)]) for each, text in timed if text]
        hypotheses = texts(start, end) if end - start >= folder.shortest_samples else []
        return [self._segment(start, end, [(folder.vocabulary.text(each.tokens), each.score) for each in hypotheses])]

    def _segment(self, start: int, end: int, hypotheses: list[tuple[str, float]]) -> Segment:
        text = hypotheses[0][0] if hypotheses else ""
        return Segment(start / self.sample_rate, end / self.sample_rate, text, hypotheses)
