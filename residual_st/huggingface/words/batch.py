"""A batch of audio with the model's own words, and the interface for generating them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import transformers
from torch import Tensor


@dataclass(frozen=True)
class AudioBatch:
    """The inputs of a model, the words that the dense model generated, and how many of them are the prompt."""

    inputs: dict[str, Tensor]
    words: Tensor
    prompt: int = 0


class OwnWords(Protocol):
    """Generates a model's own words, and computes how well another model predicts them from the same audio."""

    def write(self, model: transformers.PreTrainedModel, inputs: dict[str, Tensor], **generate_kwargs: str | int) -> AudioBatch:
        """Generate words for a batch of audio; `generate_kwargs` are arguments of `generate`, if the model has it."""

    def count(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> int:
        """Number of words in the loss of a batch."""

    def loss(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> Tensor:
        """Loss summed over a batch's words: a scalar with gradient."""

    @property
    def predict(self) -> Callable[[transformers.PreTrainedModel, AudioBatch], Tensor] | None:
        """Function (model, batch) -> scores (counted words, vocabulary); None if there are no word scores to compare."""
