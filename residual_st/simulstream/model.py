"""Models named in a simulstream configuration."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from simulstream.server.speech_processors import SAMPLE_RATE, SpeechProcessor

from residual_st.audio.pauses import spans_between_pauses
from residual_st.audio.reading import resample
from residual_st.errors import InputError
from residual_st.languages import AUTO, Direction
from residual_st.runtime import Settings
from residual_st.runtime.decoding import Source
from residual_st.runtime.folder import DESCRIPTION
from residual_st.runtime.model import Model
from residual_st.runtime.search import Search, in_source_language
from residual_st.simulstream.pieces import Pieces, text_of
from residual_st.streaming.sources import Encoded, Utterance, WholeWindows


class OfModel(SpeechProcessor):
    """Base class of all processors.

    Args:
        config: `model`, and optionally `task`, `source_lang`, `target_lang`, `beam`, `threads`; for a model to be exported also
            `precision`, `data`, `config_yaml`.
    """

    @classmethod
    def load_model(cls, config: SimpleNamespace) -> None:
        _loaded(config)

    def __init__(self, config: SimpleNamespace):
        super().__init__(config)
        self.model = _loaded(config)
        self.settings = Settings(beam=getattr(config, "beam", None))
        self._own = Direction(*(getattr(config, name, None) for name in ("task", "source_lang", "target_lang")))
        self._requested = self._own

    def set_source_language(self, language: str) -> None:
        """Set the source language. Ignored for a model without prompt words for it."""
        if self.model.languages.sources:
            self._requested = replace(self._requested, source_lang=language)

    def set_target_language(self, language: str) -> None:
        """Set the target language. Ignored for a model with one target language."""
        if self.model.languages.targets or self.model.languages.tasks:
            self._requested = replace(self._requested, target_lang=language)

    def clear(self) -> None:
        """Reset for a new stream, with the languages of the configuration."""
        super().clear()
        self._requested = self._own


class OfWindows(OfModel):
    """Base class for simulstream's own policies: decodes windows of samples to tokens that are pieces of text."""

    def __init__(self, config: SimpleNamespace):
        super().__init__(config)
        self._pieces = Pieces(self.model.vocabulary)
        self._direction: Direction | None = None

    def encoded(self, samples: np.ndarray, source: Callable[[list[np.ndarray]], Utterance]) -> Encoded[Utterance] | None:
        """The encoded window, given at simulstream's sample rate; None if it has no speech or is too short.

        Args:
            source: the model's `decoder_source` or `ctc_frames`.
        """
        folder = self.model.folder
        samples = resample(samples, SAMPLE_RATE, folder.sample_rate)
        if not spans_between_pauses(samples, folder.sample_rate, folder.lengths):
            return None
        return WholeWindows(self.model, source).encoded(samples, 0, len(samples), is_last=True)

    def search(self, source: Source, settings: Settings) -> Search:
        """The search for the configured direction; a language to be detected is that of the first window with speech."""
        if self._direction is None:
            direction = self.model.languages.resolved(self._requested)
            is_open = direction.source_lang == AUTO
            self._direction = in_source_language(source, self.model.folder, direction) if is_open else direction
        return Search(self.model.folder, settings, self._direction)

    def at_most(self, seconds: float) -> int:
        """Number of samples in `seconds`. Raises InputError if the model does not take windows of this length."""
        longest = self.model.folder.longest_seconds
        if not 0 < seconds <= longest:
            raise InputError(f"a window of {seconds:g} s must be above 0 and, for {self.config.model}, at most {longest:g}")
        return int(seconds * SAMPLE_RATE)

    def tokens_to_string(self, tokens: list[str]) -> str:
        return text_of(tokens)

    def clear(self) -> None:
        super().clear()
        self._direction = None


def _loaded(config: SimpleNamespace) -> Model:
    options = {name: getattr(config, name, None) for name in ("precision", "data", "config_yaml", "threads")}
    return _model(str(config.model), **{name: value for name, value in options.items() if value is not None})


@cache
def _model(
    source: str, threads: int = 1, precision: str | None = None, data: str | None = None, config_yaml: str | None = None
) -> Model:
    """The model, loaded once for all processors of a server."""
    if (Path(source) / DESCRIPTION).is_file():
        return Model(source, threads)
    from residual_st.export.any_model import export_any

    with tempfile.TemporaryDirectory() as folder:
        export_any(source, Path(folder), precision or "fp32", Path(data) if data else None, config_yaml)
        return Model(folder, threads)
