"""The graphs of an exported model."""

from collections.abc import Iterable
from copy import copy
from pathlib import Path

import numpy as np
import onnxruntime

from residual_st.errors import InputError, refusing
from residual_st.languages import AUTO, Direction
from residual_st.runtime.beam_search import Hypothesis
from residual_st.runtime.ctc import CtcSearch, Frames
from residual_st.runtime.decoding import ATTENTION, Source
from residual_st.runtime.folder import CROSS_ATTENTION, DECODER, ENCODER, GRAPHS, read_folder
from residual_st.runtime.search import Search, in_source_language
from residual_st.runtime.settings import Settings
from residual_st.runtime.streaming import StreamingEncoder

# earlier onnxruntime releases copy a shared matrix for each of its uses
LEAST_ONNXRUNTIME = (1, 21)


class Model:
    """An exported model in memory. Its methods may be called from several threads.

    Args:
        path: the exported folder.
        threads: number of threads per call.

    Raises:
        InputError: see `read_folder`; also if onnxruntime is too old or cannot load a graph.
    """

    def __init__(self, path: str | Path, threads: int = 1):
        self.folder = read_folder(path)
        self.vocabulary, self.languages = self.folder.vocabulary, self.folder.languages
        graphs = GRAPHS if self.folder.has_decoder else (ENCODER,)
        self._sessions = {name: open_session(self.folder.path / name, threads) for name in graphs}
        caches = {f"{name}.{layer}" for name in ("keys", "values") for layer in range(self.folder.layers)}
        sources = {f"source_{name}" for name in caches}
        streaming = self.folder.streaming
        needed = {
            ENCODER: streaming.inputs if streaming else {"samples", "lengths"},
            CROSS_ATTENTION: {"states"},
            DECODER: {"tokens", "step", "order", "state_lengths", *caches, *sources},
        }
        for name, session in self._sessions.items():
            if set(_names(session.get_inputs())) != needed[name]:
                raise InputError(f"{self.folder.path / name} does not have the inputs of a graph of this name; export it again")

    def by_ctc(self) -> "Model":
        """The model with its CTC head (greedy search) in place of the decoder; both share the encoder.

        Raises:
            InputError: see `Folder.by_ctc`.
        """
        model = copy(self)
        model.folder = self.folder.by_ctc()
        model.vocabulary = model.folder.vocabulary
        model._sessions = {ENCODER: self._sessions[ENCODER]}
        return model

    def encode(self, utterances: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Mono samples of each utterance -> `states` (batch, time, width), `state_lengths` (batch,) and, with a CTC head,
        `ctc_log_probs` (batch, time, vocabulary).

        Raises:
            InputError: if an utterance is too short or too long for the model.
        """
        for samples in utterances:
            self._check_length(samples)
        if self.folder.streaming:
            return _side_by_side([self.stream().encode(samples) for samples in utterances])
        lengths = np.array([len(samples) for samples in utterances], np.int64)
        padded = np.zeros((len(utterances), lengths.max()), np.float32)
        for row, samples in zip(padded, utterances):
            row[: len(samples)] = samples
        session = self._sessions[ENCODER]
        return dict(zip(_names(session.get_outputs()), session.run(None, {"samples": padded, "lengths": lengths})))

    def stream(self) -> StreamingEncoder:
        """An encoder for one recording that is encoded while it arrives.

        Raises:
            InputError: if the model reads whole utterances.
        """
        if not self.folder.streaming:
            raise InputError(f"{self.folder.path} reads whole utterances; export it with residual-st export --streaming")
        return StreamingEncoder(self._sessions[ENCODER], self.folder.streaming)

    def decoder_source(self, utterances: list[np.ndarray]) -> Source:
        """Encoded utterances for the decoder of a model that has one. Raises InputError like `encode`."""
        with refusing(f"the graphs of {self.folder.path} cannot be run"):
            return self.decoder_source_of(self.encode(utterances), max(map(len, utterances)))

    def decoder_source_of(self, encoded: dict[str, np.ndarray], samples: int) -> Source:
        """`decoder_source` for the output of `encode`, where the longest utterance has `samples` samples."""
        return Source(self._sessions, self.folder, samples, encoded)

    def ctc_frames(self, utterances: list[np.ndarray]) -> Frames:
        """Encoded utterances for the CTC head of a model that has one. Raises InputError like `encode`."""
        with refusing(f"the graphs of {self.folder.path} cannot be run"):
            return self.ctc_frames_of(self.encode(utterances), max(map(len, utterances)))

    def ctc_frames_of(self, encoded: dict[str, np.ndarray], samples: int) -> Frames:
        """`ctc_frames` for the output of `encode`."""
        return Frames(encoded["ctc_log_probs"], encoded["state_lengths"])

    @property
    def has_attention(self) -> bool:
        """Whether the decoder returns its attention to the source; exports of earlier releases do not."""
        return self.folder.has_decoder and ATTENTION in _names(self._sessions[DECODER].get_outputs())

    def search(
        self,
        utterances: list[np.ndarray],
        settings: Settings,
        direction: Direction = Direction(),  # noqa: B008 - frozen
    ) -> list[list[Hypothesis]]:
        """The best hypotheses of each utterance. The language, if it is to be detected, is that of the first utterance.

        Raises:
            InputError: see `encode`; also if the model does not have the direction.
        """
        if not self.folder.has_decoder:
            frames = self.ctc_frames(utterances)
            self.languages.resolved(direction)  # raises for a direction that the model does not have
            return CtcSearch(self.folder, settings).best(frames)
        source, direction = self.decoder_source(utterances), self.languages.resolved(direction)
        if direction.source_lang == AUTO:
            direction = in_source_language(source, self.folder, direction)
        return Search(self.folder, settings, direction).best(source)

    def _check_length(self, samples: np.ndarray) -> None:
        rate = self.folder.sample_rate
        if len(samples) < self.folder.shortest_samples:
            least = 1000 * self.folder.shortest_samples / rate
            raise InputError(
                f"an utterance of {1000 * len(samples) / rate:.0f} ms is too short; it must have at least {least:.0f} ms"
            )
        if len(samples) > self.folder.longest_seconds * rate:
            longest = self.folder.longest_seconds
            raise InputError(f"an utterance of {len(samples) / rate:.1f} s is too long; the model takes at most {longest:g} s")


def _side_by_side(encoded: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Utterances (1, time, …) as a batch, with the shorter ones padded with 0, and their lengths."""
    lengths = np.array([each["states"].shape[1] for each in encoded], np.int64)
    padded = {
        name: np.concatenate(
            [np.pad(each[name], ((0, 0), (0, lengths.max() - length), (0, 0))) for each, length in zip(encoded, lengths)]
        )
        for name in encoded[0]
    }
    return {**padded, "state_lengths": lengths}


def open_session(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    """Load a graph. Raises InputError if onnxruntime is too old or cannot load it."""
    major, minor, *_ = onnxruntime.__version__.split(".")
    if (int(major), int(minor)) < LEAST_ONNXRUNTIME:
        least = ".".join(map(str, LEAST_ONNXRUNTIME))
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} copies a shared matrix for each use; install onnxruntime {least} or later"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's error classes have no common base
        raise InputError(f"{graph} cannot be loaded: {str(error).splitlines()[0]}") from error


def _names(values: Iterable[onnxruntime.NodeArg]) -> list[str]:
    return [value.name for value in values]
