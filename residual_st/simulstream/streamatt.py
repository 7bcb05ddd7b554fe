"""simulstream's StreamAtt with our models: attention decides which words are committed and which audio is dropped."""

from types import SimpleNamespace

import numpy as np
import torch
from simulstream.server.speech_processors import SAMPLE_RATE
from simulstream.server.speech_processors.base_streamatt import BaseStreamAtt

from residual_st.errors import InputError
from residual_st.simulstream.model import OfWindows


class StreamAtt(OfWindows, BaseStreamAtt):
    """Papi et al. 2024 (arXiv 2406.06097), as implemented in simulstream.

    Args:
        config: as for `OfModel`, with the settings of `BaseStreamAtt`, and optionally `audio_history_max_duration` in seconds.

    Raises:
        InputError: if the model has no decoder, or one without attention output.
    """

    audio_history: np.ndarray | None

    def __init__(self, config: SimpleNamespace):
        super().__init__(config)
        if not self.model.has_attention:
            raise InputError(
                f"{config.model} has no decoder attention, which this type needs; export it again, or use another type"
            )
        self._longest = self.at_most(getattr(config, "audio_history_max_duration", self.model.folder.longest_seconds))

    @property
    def audio_max_len(self) -> int:
        """Samples."""
        return self._longest

    def _preprocess(self, waveform: np.ndarray) -> np.ndarray:
        self.audio_history = waveform if self.audio_history is None else np.concatenate([self.audio_history, waveform])
        self._cut_audio_exceeding_maxlen()
        return self.audio_history

    def _generate(self, speech: np.ndarray) -> tuple[list[str], torch.Tensor]:
        """Tokens after those of the history, and the attention of all tokens to the states: (tokens, states)."""
        history = self.text_history or []
        encoded = self.encoded(speech, self.model.decoder_source)
        if encoded is None:
            return [], torch.zeros(len(history), 1)
        self.frames_to_audio_history = round(encoded.seconds * SAMPLE_RATE)
        search, earlier = self.search(encoded.source, self.settings), self._pieces.words(history)
        new = search.best(encoded.source, earlier)[0][0].tokens[len(search.prefix) + len(earlier) :]
        tokens = self._pieces.tokens(new)
        if not history and not tokens:
            return [], torch.zeros(0, 1)
        read = search.attention(encoded.source, earlier + new)[:, : encoded.states]
        sizes = [len(self._pieces.words([token])) for token in [*history, *tokens]]
        return tokens, self.normalize_attn(torch.tensor(read[np.cumsum([0, *sizes[:-1]])]))
