"""Texts that are not believed, by the rules of Whisper's authors: they are searched again, by chance, or taken for silence."""

import math
import zlib
from dataclasses import dataclass

from residual_st.runtime.beam_search import Hypothesis


@dataclass(frozen=True)
class Fallback:
    """When a text is not believed. None turns a rule off.

    Attributes:
        temperatures: of one search after the other, until a text is believed; 0 is the search that the settings ask for.
        compression_ratio: of a text's words in bytes to these compressed; a text above it repeats itself.
        log_prob: mean of a word; a text below it is a guess.
        no_speech: probability that nobody speaks; a guess above it is no text at all.
    """

    temperatures: tuple[float, ...] = (0.0,)
    compression_ratio: float | None = None
    log_prob: float | None = None
    no_speech: float | None = None

    def __post_init__(self):
        limits = [each for each in (self.compression_ratio, self.log_prob, self.no_speech) if each is not None]
        if not all(isinstance(number, (int, float)) for number in (*self.temperatures, *limits)):
            raise TypeError("a rule of what is believed is no number")
        if not self.temperatures or min(self.temperatures) < 0:
            raise ValueError("temperatures must be 0 or more, and one at least")

    def is_guess(self, text: Hypothesis) -> bool:
        return self.log_prob is not None and text.score < self.log_prob

    def is_silence(self, probability: float) -> bool:
        """Of a window whose text is a guess, where the model's word for silence has this probability."""
        return self.no_speech is not None and probability > self.no_speech

    def repeats_itself(self, text: Hypothesis, eos: int, vocabulary: int) -> bool:
        """As transformers measures it, on numbers of words; the authors measure letters, against another limit."""
        if self.compression_ratio is None:
            return False
        size = int(math.log2(vocabulary) / 8) + 1
        numbers = b"".join(token.to_bytes(size, "little") for token in (*text.tokens, eos))
        return len(numbers) / len(zlib.compress(numbers)) > self.compression_ratio
