"""simulstream's retranslation of a sliding window, with our models."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from simulstream.server.speech_processors import SAMPLE_RATE
from simulstream.server.speech_processors.incremental_output import IncrementalOutput
from simulstream.server.speech_processors.sliding_window_retranslation import SlidingWindowRetranslator

from residual_st.runtime import Settings
from residual_st.runtime.beam_search import Hypothesis
from residual_st.runtime.ctc import CtcSearch
from residual_st.simulstream.model import OfWindows


class SlidingWindow(OfWindows, SlidingWindowRetranslator):
    """Sen et al. 2022 (arXiv 2210.09754), as implemented in simulstream.

    Args:
        config: as for `OfModel`, with `window_len` in seconds and the other settings of `SlidingWindowRetranslator`.
    """

    audio_history: np.ndarray | None

    def __init__(self, config: SimpleNamespace):
        super().__init__(config)
        self.window_len = self.at_most(config.window_len)

    def _preprocess(self, waveform: np.ndarray) -> np.ndarray:
        samples = waveform if self.audio_history is None else np.concatenate([self.audio_history, waveform])
        self.audio_history = samples[-self.window_len :]
        return self.audio_history

    def _generate(self, speech: np.ndarray) -> list[str]:
        most = int(max(self.max_tokens_per_second * len(speech) / SAMPLE_RATE, 10))
        settings = replace(self.settings, max_len_a=0.0, max_len_b=most)
        hypotheses = self._by_decoder(speech, settings) if self.model.folder.has_decoder else self._by_ctc(speech, settings)
        return self._pieces.tokens(hypotheses[0].tokens) if hypotheses else []

    def _by_decoder(self, speech: np.ndarray, settings: Settings) -> list[Hypothesis]:
        encoded = self.encoded(speech, self.model.decoder_source)
        return [] if encoded is None else self.search(encoded.source, settings).best(encoded.source)[0]

    def _by_ctc(self, speech: np.ndarray, settings: Settings) -> list[Hypothesis]:
        encoded = self.encoded(speech, self.model.ctc_frames)
        if encoded is None:
            return []
        self.model.languages.resolved(self._requested)  # raises for a direction that the model does not have
        return CtcSearch(self.model.folder, settings).best(encoded.source)[0]

    def _build_incremental_outputs(self, generated_tokens: list[str]) -> IncrementalOutput:
        """Silence deletes nothing: without this, simulstream would delete the text before it."""
        return super()._build_incremental_outputs(generated_tokens) if generated_tokens else IncrementalOutput([], "", [], "")
