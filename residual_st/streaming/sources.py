"""Encoding of a stream's open window: the whole window at each step, or only its new chunks with a streaming encoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from residual_st.runtime.ctc import Frames
from residual_st.runtime.decoding import Source
from residual_st.runtime.model import Model

Utterance = TypeVar("Utterance", Source, Frames)  # as the decoder or CTC reads it


@dataclass(frozen=True)
class Encoded(Generic[Utterance]):
    """The encoder states of a window.

    Attributes:
        source: encoded utterance.
        states: number of states that belong to the window; states after them are Whisper's padding.
        seconds: duration of one state.
        are_final: whether no further audio of the window can change the states.
    """

    source: Utterance
    states: int
    seconds: float
    are_final: bool


class WholeWindows(Generic[Utterance]):
    """Encoding by an encoder that reads whole windows.

    Args:
        source: the model's `decoder_source` or `ctc_frames`.
    """

    def __init__(self, model: Model, source: Callable[[list[np.ndarray]], Utterance]):
        self._folder = model.folder
        self._source: Callable[[list[np.ndarray]], Utterance] = source

    def encoded(self, samples: np.ndarray, start: int, end: int, is_last: bool) -> Encoded[Utterance] | None:
        """The states of a window; None before the first state.

        Args:
            samples: samples from the start of the window, possibly with more after its end.
            start: position of the window's first sample in the stream.
            end: number of samples that belong to the window.
            is_last: whether the window is complete.
        """
        if end < self._folder.shortest_samples:
            return None
        source = self._source([samples[:end]])
        states = source.states
        # Whisper always returns the states of its longest window
        whole = self._folder.longest_seconds * self._folder.sample_rate if self._folder.pads_to_longest else end
        return Encoded(source, max(1, round(states * end / whole)), whole / states / self._folder.sample_rate, is_last)


class GrowingWindows(Generic[Utterance]):
    """Encoding by a streaming encoder, which encodes each sample once.

    Args:
        source_of: the model's `decoder_source_of` or `ctc_frames_of`.
    """

    _start: int | None  # of the window, in the stream
    _fed: int
    _is_finished: bool
    _parts: dict[str, list[np.ndarray]]

    def __init__(self, model: Model, source_of: Callable[[dict[str, np.ndarray], int], Utterance]):
        self._encoder, self._rate = model.stream(), model.folder.sample_rate
        self._source_of: Callable[[dict[str, np.ndarray], int], Utterance] = source_of
        self._frame = self._encoder.form.frame_samples
        self._forget()

    def encoded(self, samples: np.ndarray, start: int, end: int, is_last: bool) -> Encoded[Utterance] | None:
        """Like `WholeWindows.encoded`, with the states of complete chunks, or all states if the window is complete."""
        if start != self._start or self._is_finished and end > self._fed:
            self._forget()
            self._start = start
        if end > self._fed:
            self._add(self._encoder.feed(samples[self._fed : end]))
            self._fed = end
        if is_last and not self._is_finished and self._encoder.frames * self._frame < end:
            self._add(self._encoder.finish())
            self._is_finished = True
        known = {name: np.concatenate(parts, axis=1) for name, parts in self._parts.items()}
        states = min(known["states"].shape[1], -(-end // self._frame)) if known else 0
        if not states:
            return None
        encoded = {name: values[:, :states] for name, values in known.items()}
        encoded["state_lengths"] = np.array([states])
        return Encoded(self._source_of(encoded, end), states, self._frame / self._rate, are_final=True)

    def _add(self, encoded: dict[str, np.ndarray]) -> None:
        for name, values in encoded.items():
            self._parts.setdefault(name, []).append(values)

    def _forget(self) -> None:
        self._encoder.reset()
        self._start, self._fed, self._is_finished, self._parts = None, 0, False, {}
