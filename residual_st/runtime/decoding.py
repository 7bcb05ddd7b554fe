"""The decoder's input, and its state between steps."""

from functools import cached_property

import numpy as np
from onnxruntime import InferenceSession, OrtValue

from residual_st.runtime.folder import CROSS_ATTENTION, DECODER, Folder
from residual_st.runtime.settings import CompleteSettings

ATTENTION = "attention"  # a decoder output; missing in folders of earlier releases


class Source:
    """Encoded utterances as the decoder reads them: keys and values in onnxruntime's memory.

    Attributes:
        utterances: their number.
        states: number of encoder states of the longest utterance.
    """

    def __init__(self, sessions: dict[str, InferenceSession], folder: Folder, samples: int, encoded: dict[str, np.ndarray]):
        self._decoder, self._folder, self.utterances = sessions[DECODER], folder, len(encoded["states"])
        self.states, self._samples = encoded["states"].shape[1], samples
        cross = sessions[CROSS_ATTENTION]
        names = [value.name for value in cross.get_outputs()]
        states = {"states": OrtValue.ortvalue_from_numpy(encoded["states"])}
        self._values = dict(zip(names, cross.run_with_ort_values(names, states)))
        self._values["state_lengths"] = OrtValue.ortvalue_from_numpy(encoded["state_lengths"])

    def longest_text(self, settings: CompleteSettings, prompt: int) -> int:
        """Maximum number of words in a text after a prompt of `prompt` words."""
        folder = self._folder
        frames = max(1, 1 + (self._samples - folder.shortest_samples) // (folder.sample_rate // 100))
        return min(int(settings.max_len_a * frames + settings.max_len_b), folder.longest_words - prompt)

    def attention(self, prompt: list[int], words: list[int]) -> np.ndarray:
        """Attention of each of `words`, which follow the prompt, to the states, for a source with one utterance: (words, time)."""
        decoding, rows = self.decoding(1), []
        for word in [*prompt, *words][:-1]:
            decoding.step(np.array([[word]]), np.arange(1))
            rows.append(decoding.attention[0, 0])
        return np.stack(rows[len(prompt) - 1 :])

    def decoding(self, beam: int) -> "Decoding":
        """The decoder before its first step, with `beam` hypotheses per utterance."""
        return Decoding(self._decoder, self._folder, self._values, beam * self.utterances)

    @cached_property
    def first_words(self) -> np.ndarray:
        """Log-probabilities of the word after the first word of a prompt (batch, vocabulary)."""
        start = np.full((self.utterances, 1), self._folder.vocabulary.start)
        return self.decoding(1).step(start, np.arange(self.utterances))[:, 0]

    def detected_languages(self) -> list[str]:
        """The language of each utterance: the model's likeliest language word after the first word of a prompt."""
        codes, words = zip(*self._folder.languages.detected.items())
        return [codes[place] for place in self.first_words[:, words].argmax(axis=1)]


class Decoding:
    """The decoder's state between steps: the source, and keys and values of the words so far.

    Attributes:
        attention: attention to the states in the last step (batch, beam, time), if the decoder has this output.
    """

    def __init__(self, decoder: InferenceSession, folder: Folder, source: dict[str, OrtValue], rows: int):
        self._decoder, self._source = decoder, source
        empty = np.zeros((rows, folder.heads, 0, folder.head_width), np.float32)
        self._cache = {
            f"{name}.{layer}": OrtValue.ortvalue_from_numpy(empty) for name in ("keys", "values") for layer in range(folder.layers)
        }
        outputs = {output.name for output in decoder.get_outputs()}
        self._outputs = ["log_probs", *(f"next_{name}" for name in self._cache), *({ATTENTION} & outputs)]
        self._steps = 0

    def step(self, tokens: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Log-probabilities of the next words (batch, beam, vocabulary).

        Args:
            tokens: last word of each hypothesis (batch, beam).
            order: row that each hypothesis continues (batch * beam,).
        """
        arrays = {"tokens": np.ascontiguousarray(tokens), "step": np.array(self._steps), "order": order}
        inputs = {name: OrtValue.ortvalue_from_numpy(value) for name, value in arrays.items()}
        first, *cache = self._decoder.run_with_ort_values(self._outputs, {**inputs, **self._source, **self._cache})
        if len(cache) > len(self._cache):
            self.attention = cache.pop().numpy()
        self._cache = dict(zip(self._cache, cache))
        self._steps += 1
        log_probs: np.ndarray = first.numpy()
        return log_probs

    def keep(self, utterances: np.ndarray) -> None:
        """Continue with the utterances of the batch that are True in `utterances` (batch,)."""
        self._source = {name: OrtValue.ortvalue_from_numpy(value.numpy()[utterances]) for name, value in self._source.items()}
