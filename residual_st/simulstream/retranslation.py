"""simulstream's retranslation of a sliding window, with our models."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from simulstream.server.speech_processors import SAMPLE_RATE
from simulstream.server.speech_processors.incremental_output import IncrementalOutput
from simulstream.server.speech_processors.sliding_window_retranslation import SlidingWindowRetranslator

from residual_st.simulstream.model import OfWindows


class SlidingWindow(OfWindows, SlidingWindowRetranslator):
    """Sen et al. 2022 (arXiv 2210.09754), as implemented in simulstream.

    Args:
        config: as for `OfModel`, with `window_len` in seconds and the other settings of `SlidingWindowRetranslator`.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__(config)
        self.window_len = self.at_most(config.window_len)

    def _preprocess(self, waveform: np.ndarray) -> np.ndarray:
        samples = waveform if self.audio_history is None else np.concatenate([self.audio_history, waveform])
        self.audio_history = samples[-self.window_len :]
        return self.audio_history

    def _generate(self, speech: np.ndarray) -> list[str]:
        encoded = self.encoded(speech)
        if encoded is None:
            return []
        most = int(max(self.max_tokens_per_second * len(speech) / SAMPLE_RATE, 10))
        search = self.search(encoded, replace(self.settings, max_len_a=0.0, max_len_b=most))
        return self._pieces.tokens(search.best(encoded.source)[0][0].tokens)

    def _build_incremental_outputs(self, generated_tokens: list[str]) -> IncrementalOutput:
        """Silence deletes nothing: without this, simulstream would delete the text before it."""
        return super()._build_incremental_outputs(generated_tokens) if generated_tokens else IncrementalOutput([], "", [], "")
