"""`residual-st listen` as a speech processor."""

from os.path import commonprefix
from types import SimpleNamespace

import numpy as np
from simulstream.server.speech_processors import SAMPLE_RATE
from simulstream.server.speech_processors.incremental_output import IncrementalOutput

from residual_st import streaming
from residual_st.pieces import WORD_START
from residual_st.simulstream.model import OfModel
from residual_st.simulstream.pieces import text_of
from residual_st.streaming.stream import DEFAULT_POLICY, SHORTEST_CHUNK


class Stream(OfModel):
    """A `residual_st.streaming.Stream`. Its tokens are characters, so that a word may grow. Only committed text is output, except
    with the policy retranslation, which outputs everything.

    Args:
        config: as for `OfModel`, with `policy`, one of `residual_st.streaming.POLICIES`.
    """

    _stream: streaming.Stream | None
    _open: str  # output after the last closed text

    def __init__(self, config: SimpleNamespace):
        super().__init__(config)
        self._policy = getattr(config, "policy", DEFAULT_POLICY)
        self.clear()
        self._started()  # raises for unsupported settings

    def process_chunk(self, waveform: np.ndarray) -> IncrementalOutput:
        if self._stream is None:
            self._stream = self._started()
        return self._output(self._stream.feed(waveform, SAMPLE_RATE))

    def end_of_stream(self) -> IncrementalOutput:
        return self._output([] if self._stream is None else [self._stream.finish()])

    def tokens_to_string(self, tokens: list[str]) -> str:
        return text_of(tokens)

    def clear(self) -> None:
        super().clear()
        self._stream, self._open, self._space = None, "", ""

    def _started(self) -> streaming.Stream:
        # each call of `process_chunk` is a step, whatever its length
        return streaming.Stream(self.model, self._policy, self.settings, **vars(self._requested), chunk_seconds=SHORTEST_CHUNK)

    def _output(self, updates: list[streaming.Update]) -> IncrementalOutput:
        before, shown = self._open, ""
        for update in updates:
            tail = update.tail if self._policy == "retranslation" else ""
            for text in [segment.text for segment in update.closed]:
                shown, self._space = f"{shown}{self._space}{text}", " "
            self._open = f"{self._space}{update.text}{tail}" if update.text or tail else ""
        shown = shown + self._open if updates else before
        kept = len(commonprefix([before, shown]))
        new, deleted = shown[kept:], before[kept:]
        return IncrementalOutput(_letters(new), new, _letters(deleted), deleted)


def _letters(text: str) -> list[str]:
    return list(text.replace(" ", WORD_START))
