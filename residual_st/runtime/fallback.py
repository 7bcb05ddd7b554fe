"""Fallback rules of Whisper's authors: an unreliable text is decoded again by sampling, or treated as silence."""

import math
import zlib
from dataclasses import dataclass

from residual_st.runtime.beam_search import Hypothesis


@dataclass(frozen=True)
class Fallback:
    """Thresholds beyond which a text is rejected. None turns a rule off.

    Attributes:
        temperatures: sampling temperatures, tried in order until a text is accepted; 0 is the search of the settings.
        compression_ratio: bytes of a text's words / bytes after compression; a text above it is a repetition loop.
        log_prob: mean log-probability of a word; a text below it is a guess.
        no_speech: probability of silence; a guess above it is dropped.
    """

    temperatures: tuple[float, ...] = (0.0,)
    compression_ratio: float | None = None
    log_prob: float | None = None
    no_speech: float | None = None

    def __post_init__(self) -> None:
        limits = [each for each in (self.compression_ratio, self.log_prob, self.no_speech) if each is not None]
        if not all(isinstance(number, (int, float)) for number in (*self.temperatures, *limits)):
            raise TypeError("every fallback threshold must be a number")
        if not self.temperatures or min(self.temperatures) < 0:
            raise ValueError("temperatures must be one or more numbers of at least 0")

    def is_guess(self, text: Hypothesis) -> bool:
        return self.log_prob is not None and text.score < self.log_prob

    def is_silence(self, probability: float) -> bool:
        """Whether a window whose text is a guess is silence, given the probability of the model's silence word."""
        return self.no_speech is not None and probability > self.no_speech

    def repeats_itself(self, text: Hypothesis, eos: int, vocabulary: int) -> bool:
        """Measured like transformers, on word ids; Whisper's authors measure letters, with another threshold."""
        if self.compression_ratio is None:
            return False
        size = int(math.log2(vocabulary) / 8) + 1
        numbers = b"".join(token.to_bytes(size, "little") for token in (*text.tokens, eos))
        return len(numbers) / len(zlib.compress(numbers)) > self.compression_ratio
