"""The distillation loss of one batch: on words, and on the encoders' states."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.fairseq.distillation.losses import state_difference, word_divergence
from residual_st.fairseq.distillation.teacher import CachedTeacher, LiveTeacher, encoder_stack, open_teacher
from residual_st.stacks import recorded_calls


class Distillation:
    """A teacher, loaded at the first batch, and the weights of the distillation loss.

    Args:
        source: a checkpoint, or a folder of `residual-st cache-teacher`.
        weight: weight of the distillation loss on words, 0 to 1; the labels have the rest.
        temperature: temperature of the distributions in the distillation loss.
        encoder_weight: weight of the difference between the encoders' states.
        vocabulary_size: the student's.

    Raises:
        InputError: for a number outside its range.
    """

    def __init__(self, source: str | Path, weight: float, temperature: float, encoder_weight: float, vocabulary_size: int):
        if not 0 <= weight <= 1:
            raise InputError(f"--distill-weight {weight} must be from 0 to 1")
        if temperature <= 0 or encoder_weight < 0:
            raise InputError("--distill-temperature must be above 0, and --distill-encoder-weight at least 0")
        self.weight, self.temperature, self.encoder_weight = weight, temperature, encoder_weight
        self._source, self._vocabulary_size = source, vocabulary_size
        self._teacher: LiveTeacher | CachedTeacher | None = None
        self._pairs: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def teacher_loss(self, model: nn.Module, sample: dict) -> Iterator["TeacherLoss"]:
        """Run the teacher on a batch. In the block, `model` (the student) must be run on it once."""
        if self._teacher is None:
            self._teacher = open_teacher(self._source, self._vocabulary_size)
            self._pairs = self._teacher.map_layers(model) if self.encoder_weight else []
        words, log_probs, teacher_states = self._teacher(sample, [other for _, other in self._pairs])
        loss = TeacherLoss(self, words, log_probs)
        if not self._pairs:
            yield loss
            return
        with recorded_calls(encoder_stack(model), [layer for layer, _ in self._pairs]) as calls:
            yield loss
        differences = [
            state_difference(calls[layer].output, teacher_states[other], calls[layer].padding) for layer, other in self._pairs
        ]
        loss.state_loss = sum(differences[1:], differences[0]) / len(differences)


class TeacherLoss:
    """The distillation loss of one batch.

    Attributes:
        word_loss: `word_divergence` summed over the batch, set by `mix`.
        state_loss: mean `state_difference` over the pairs of layers, set when the block ends; None if states are not compared.
    """

    word_loss: Tensor

    def __init__(self, distillation: Distillation, words: Tensor | None, log_probs: Tensor):
        self._distillation, self._words, self._log_probs = distillation, words, log_probs
        self.state_loss: Tensor | None = None

    def mix(self, loss: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
        """The loss on words including distillation; `logits` are the student's, and `counted` marks the positions that count."""
        weight, temperature = self._distillation.weight, self._distillation.temperature
        self.word_loss = word_divergence(logits, self._log_probs, self._words, counted, temperature)
        return (1 - weight) * loss + weight * self.word_loss.to(loss.dtype)

    def state_penalty(self) -> Tensor | float:
        """Addend to the loss per unit of sample size."""
        return 0.0 if self.state_loss is None else self._distillation.encoder_weight * self.state_loss

    def log(self, sample_size: int) -> dict[str, Tensor]:
        """Entries for fairseq's logging output: sums, with the loss on words in bits."""
        figures = {"distill_loss": self.word_loss.detach() / math.log(2)}
        if self.state_loss is not None:
            figures["distill_encoder_loss"] = self.state_loss.detach() * sample_size
        return figures
