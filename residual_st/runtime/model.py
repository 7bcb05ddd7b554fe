"""The graphs of an exported model, and what is handed from one to the next."""

from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime import OrtValue

from residual_st.errors import InputError, refusing
from residual_st.runtime.beam_search import BeamSearch, Hypothesis, Settings
from residual_st.runtime.folder import CROSS_ATTENTION, DECODER, ENCODER, GRAPHS, read_folder

# earlier releases keep a copy of a shared matrix for each of its uses
LEAST_ONNXRUNTIME = (1, 21)


class Model:
    """An exported model in memory. Its methods may be called from several threads.

    Args:
        path: the folder.
        threads: of one call.

    Raises:
        InputError: as `read_folder` does; if onnxruntime is too old, or cannot load a graph.
    """

    def __init__(self, path: str | Path, threads: int = 1):
        self.folder = read_folder(path)
        self.vocabulary = self.folder.vocabulary
        self._sessions = {name: open_session(self.folder.path / name, threads) for name in GRAPHS}
        caches = {f"{name}.{layer}" for name in ("keys", "values") for layer in range(self.folder.layers)}
        sources = {f"source_{name}" for name in caches}
        needed = {
            ENCODER: {"samples", "lengths"},
            CROSS_ATTENTION: {"states"},
            DECODER: {"tokens", "step", "order", "state_lengths", *caches, *sources},
        }
        for name, session in self._sessions.items():
            if set(_names(session.get_inputs())) != needed[name]:
                raise InputError(f"{self.folder.path / name} has other inputs than a graph of this name; export it again")

    def encode(self, utterances: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Mono samples of each utterance -> `states` (batch, time, width), `state_lengths` (batch,) and maybe `ctc_log_probs`.

        Raises:
            InputError: if an utterance is too short or too long for the model.
        """
        for samples in utterances:
            self._check_length(samples)
        lengths = np.array([len(samples) for samples in utterances], np.int64)
        padded = np.zeros((len(utterances), lengths.max()), np.float32)
        for row, samples in zip(padded, utterances):
            row[: len(samples)] = samples
        session = self._sessions[ENCODER]
        return dict(zip(_names(session.get_outputs()), session.run(None, {"samples": padded, "lengths": lengths})))

    def decoding(self, utterances: list[np.ndarray], beam: int) -> "Decoding":
        """The decoder before its first step, with `beam` hypotheses of each utterance."""
        return Decoding(self._sessions, self.folder, self.encode(utterances), beam)

    def search(self, utterances: list[np.ndarray], settings: Settings, language: str | None = None) -> list[list[Hypothesis]]:
        """The best hypotheses of each utterance."""
        prompt, prefix = self.vocabulary.opening(language)
        settings = settings.completed(self.folder.settings)
        with refusing(f"the graphs of {self.folder.path} cannot be run"):
            return self._search(utterances, settings, prompt, prefix)

    def _search(
        self, utterances: list[np.ndarray], settings: Settings, prompt: list[int], prefix: list[int]
    ) -> list[list[Hypothesis]]:
        rate = self.folder.sample_rate
        frames = max(1 + (len(samples) - self.folder.shortest_samples) // (rate // 100) for samples in utterances)
        longest = min(int(settings.max_len_a * frames + settings.max_len_b), self.folder.longest_words - len(prompt))
        state = self.decoding(utterances, settings.beam)
        return BeamSearch(state.step, state.keep, self.vocabulary, settings, longest, prompt, prefix).run(len(utterances))

    def _check_length(self, samples: np.ndarray) -> None:
        rate = self.folder.sample_rate
        if len(samples) < self.folder.shortest_samples:
            least = 1000 * self.folder.shortest_samples / rate
            raise InputError(f"an utterance of {1000 * len(samples) / rate:.0f} ms is too short; {least:.0f} ms are needed")
        if len(samples) > self.folder.longest_seconds * rate:
            longest = self.folder.longest_seconds
            raise InputError(f"an utterance of {len(samples) / rate:.1f} s is too long; the model takes {longest:g} s at most")


def open_session(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    """Raises InputError if onnxruntime is too old, or cannot load the graph."""
    installed = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if installed < LEAST_ONNXRUNTIME:
        least = ".".join(map(str, LEAST_ONNXRUNTIME))
        raise InputError(f"onnxruntime {onnxruntime.__version__} copies a shared matrix for each use; install {least} or later")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime's own classes, which have no common base
        raise InputError(f"{graph} cannot be loaded: {str(error).splitlines()[0]}") from error


class Decoding:
    """What the decoder keeps between steps, in the runtime's own memory: keys and values of the source, and of the words so far."""

    def __init__(self, sessions: dict, folder, encoded: dict[str, np.ndarray], beam: int):
        self._decoder = sessions[DECODER]
        cross = sessions[CROSS_ATTENTION]
        names = _names(cross.get_outputs())
        states = {"states": OrtValue.ortvalue_from_numpy(encoded["states"])}
        self._source = dict(zip(names, cross.run_with_ort_values(names, states)))
        self._source["state_lengths"] = OrtValue.ortvalue_from_numpy(encoded["state_lengths"])
        rows = beam * len(encoded["states"])
        empty = np.zeros((rows, folder.heads, 0, folder.head_width), np.float32)
        self._cache = {
            f"{name}.{layer}": OrtValue.ortvalue_from_numpy(empty) for name in ("keys", "values") for layer in range(folder.layers)
        }
        self._outputs = ["log_probs", *(f"next_{name}" for name in self._cache)]
        self._steps = 0

    def step(self, tokens: np.ndarray, order: np.ndarray) -> np.ndarray:
        """The last word of each hypothesis (batch, beam), and the row that it continues (batch * beam,) -> the next words'
        log-probabilities (batch, beam, vocabulary)."""
        given = {"tokens": np.ascontiguousarray(tokens), "step": np.array(self._steps), "order": order}
        inputs = {name: OrtValue.ortvalue_from_numpy(value) for name, value in given.items()}
        log_probs, *cache = self._decoder.run_with_ort_values(self._outputs, {**inputs, **self._source, **self._cache})
        self._cache = dict(zip(self._cache, cache))
        self._steps += 1
        return log_probs.numpy()

    def keep(self, utterances: np.ndarray) -> None:
        """Go on with some utterances of the batch, those that are True in (batch,)."""
        self._source = {name: OrtValue.ortvalue_from_numpy(value.numpy()[utterances]) for name, value in self._source.items()}


def _names(values) -> list[str]:
    return [value.name for value in values]
