"""A streaming encoder: audio in as it arrives, states out, each computed once."""

from dataclasses import dataclass

import numpy as np
from onnxruntime import InferenceSession, OrtValue

from residual_st.errors import InputError, refusing

LARGEST_NUMBER = 100_000
LARGEST_CACHE = 2**28  # maximum total number of values in the caches


@dataclass(frozen=True)
class Streaming:
    """Shape of an encoder that reads chunk by chunk: the entry `streaming` of model.json.

    Attributes:
        window, shift: samples per feature frame, and samples from one frame to the next.
        stride: feature frames from one encoder frame to the next.
        reach: encoder frame i reads feature frames up to `stride * i + reach`.
        chunk_frames: encoder frames per chunk.
        left_chunks: number of earlier chunks that a frame attends to.
        longest_frames: number of encoder positions that the model was trained on.
        layers, heads, head_width: of the encoder.
        tails: number and width of the frames that each convolution keeps from the chunk before.
    """

    window: int
    shift: int
    stride: int
    reach: int
    chunk_frames: int
    left_chunks: int
    longest_frames: int
    layers: int
    heads: int
    head_width: int
    tails: list[list[int]]

    def __post_init__(self) -> None:
        """Raises ValueError for values that no encoder has."""
        numbers = {name: value for name, value in vars(self).items() if name != "tails"}
        for name, value in {**numbers, **{f"tails {place}": value for place, value in enumerate(sum(self.tails, []))}}.items():
            least = 0 if name in ("left_chunks", "reach") else 1
            if type(value) is not int or not least <= value <= LARGEST_NUMBER:
                raise ValueError(f"{name} is {value!r}, but must be a whole number from {least} to {LARGEST_NUMBER:,}")
        frames = (self.left_chunks + 1) * self.chunk_frames
        if 2 * frames * self.layers * self.heads * self.head_width > LARGEST_CACHE or any(len(tail) != 2 for tail in self.tails):
            raise ValueError(f"{self} has larger caches than any encoder")

    @property
    def frame_samples(self) -> int:
        """Samples from one encoder frame to the next."""
        return self.stride * self.shift

    @property
    def look_ahead_samples(self) -> int:
        """Number of samples after the end of a chunk that are needed to encode it."""
        return (self.reach - self.stride) * self.shift + self.window

    @property
    def caches(self) -> list[str]:
        """Names of the state that the graph passes from one chunk to the next."""
        layers = [f"{name}.{layer}" for name in ("keys", "values") for layer in range(self.layers)]
        return [*(f"tail.{place}" for place in range(len(self.tails))), *layers]

    @property
    def inputs(self) -> set[str]:
        """Names of the graph's inputs."""
        return {"samples", "position", "last", *self.caches}


class StreamingEncoder:
    """Encoder of one recording that is encoded while it arrives. Several may share a session; each is for one thread.

    States never change after they were returned. Memory and time per chunk are constant: after `longest_frames`, positions start
    at 0 again and the next chunk attends to none before it.

    Attributes:
        form: the encoder's entry in model.json.
        frames: number of encoder frames returned so far.

    Args:
        session: onnxruntime session of the encoder's graph.
    """

    def __init__(self, session: InferenceSession, form: Streaming):
        self._session, self.form = session, form
        self._shapes = {value.name: value.shape for value in session.get_outputs() if not value.name.startswith("next_")}
        self.reset()

    def reset(self) -> None:
        """Forget the recording: the next samples belong to a new one."""
        self.frames = self._position = self._read = 0
        self._samples = np.zeros(0, np.float32)  # samples of feature frames that were not encoded yet
        tails = {f"tail.{place}": np.zeros((1, *tail), np.float32) for place, tail in enumerate(self.form.tails)}
        self._caches = {name: OrtValue.ortvalue_from_numpy(tail) for name, tail in tails.items()}
        self._forget_chunks()

    def feed(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Encode the chunks that are now complete.

        Args:
            samples: mono, float32 in [-1, 1], of shape (n,).

        Returns:
            `states` (1, time, width) and, with a CTC head, `ctc_log_probs` (1, time, vocabulary). The time is a
            multiple of `chunk_frames`, or 0.

        Raises:
            InputError: if the graph cannot be run or has another shape.
        """
        self._samples = np.concatenate([self._samples, samples], dtype=np.float32)
        form, encoded = self.form, [self._nothing()]
        while True:
            frames = form.stride * (self.frames + form.chunk_frames - 1) + form.reach + 1 - self._read
            needed = frames * form.shift + self._overlap
            if len(self._samples) < needed:
                return _joined(encoded)
            encoded.append(self._run(self._samples[:needed], is_last=False))
            if (made := encoded[-1]["states"].shape[1]) != form.chunk_frames:
                raise InputError(f"the encoder's graph returned {made} frames for a chunk of {form.chunk_frames}; export it again")
            self._read += frames
            self._samples = self._samples[frames * form.shift :]

    def finish(self) -> dict[str, np.ndarray]:
        """Encode the rest of the recording and forget it. Returns the same as `feed`, of any length."""
        read = self._read + max(0, len(self._samples) - self._overlap) // self.form.shift
        is_due = read > self.frames * self.form.stride
        encoded = self._run(self._samples, is_last=True) if is_due else self._nothing()
        self.reset()
        return encoded

    def encode(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """The states of a whole recording."""
        self.reset()
        return _joined([self.feed(samples), self.finish()])

    @property
    def _overlap(self) -> int:
        """Samples that one feature frame shares with the next."""
        return self.form.window - self.form.shift

    def _run(self, samples: np.ndarray, is_last: bool) -> dict[str, np.ndarray]:
        if self._position >= self.form.longest_frames:
            self._position = 0
            self._forget_chunks()
        arrays = {"samples": samples[None], "position": np.array(self._position), "last": np.array(int(is_last))}
        inputs = {name: OrtValue.ortvalue_from_numpy(value) for name, value in arrays.items()}
        names = [*self._shapes, *(f"next_{name}" for name in self._caches)]
        with refusing("the encoder's graph cannot be run"):
            values = self._session.run_with_ort_values(names, {**inputs, **self._caches})
        self._caches = dict(zip(self._caches, values[len(self._shapes) :]))
        encoded = {name: value.numpy() for name, value in zip(self._shapes, values)}
        self.frames += encoded["states"].shape[1]
        self._position += encoded["states"].shape[1]
        return encoded

    def _forget_chunks(self) -> None:
        form = self.form
        empty = OrtValue.ortvalue_from_numpy(np.zeros((1, form.heads, 0, form.head_width), np.float32))
        self._caches |= {f"{name}.{layer}": empty for name in ("keys", "values") for layer in range(form.layers)}

    def _nothing(self) -> dict[str, np.ndarray]:
        return {name: np.zeros((1, 0, width), np.float32) for name, (*_, width) in self._shapes.items()}


def _joined(encoded: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Outputs of several chunks, concatenated in time."""
    return {name: np.concatenate([part[name] for part in encoded], axis=1) for name in encoded[0]}
