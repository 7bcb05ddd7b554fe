"""What a model computes from audio, and what is asked of whatever makes its own words."""

from dataclasses import dataclass
from typing import Protocol

import transformers
from torch import Tensor, nn


@dataclass(frozen=True)
class AudioBatch:
    """What a model is given, the words that the dense one made of it, and how many of them come from the prompt."""

    inputs: dict[str, Tensor]
    words: Tensor
    prompt: int = 0


class OwnWords(Protocol):
    """How a sort of model makes its own words, and how well another that is given the same audio predicts them.

    `predict` is None where there are no words whose scores could be compared.
    """

    def write(self, model: transformers.PreTrainedModel, inputs: dict[str, Tensor], **asked: str | int) -> AudioBatch:
        """What the model makes of a batch of audio; `asked` of `generate`, where it has that."""

    def count(self, model: nn.Module, batch: AudioBatch) -> int:
        """How many words the loss of a batch is of."""

    def loss(self, model: nn.Module, batch: AudioBatch) -> Tensor:
        """Of a batch's words, summed: a scalar with gradient."""

    def predict(self, model: nn.Module, batch: AudioBatch) -> Tensor:
        """Scores (words that count, vocabulary)."""
