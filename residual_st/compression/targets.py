"""The dense model's outputs on each batch, computed once and stored on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from residual_st.compression.moments import Calibration
from residual_st.compression.sums import widened
from residual_st.errors import InputError
from residual_st.stacks import LayerStack, recorded_calls

LIKELIEST = 64  # likeliest words stored per distribution; all others count as one word
LEAST_VARIANCE = 0.01  # minimum variance of a channel, relative to the mean of all
SMALLEST = 1e-7  # probability of all other words

Model = tuple[nn.Module, LayerStack]  # a model and the stack inside it


@dataclass(frozen=True)
class LayerTarget:
    """A layer's output in half precision, with each channel normalised to mean 0 and deviation 1.

    In a trained model a few channels may have most of the variance and be far from 0. With normalisation all channels count equally
    and have the same precision.

    Attributes:
        states: (positions without padding, width).
        mean, deviation: (width,).
    """

    states: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, output: Tensor) -> "LayerTarget":
        mean, variance = output.mean(0), output.var(0, correction=0)
        deviation = variance.clamp_min(LEAST_VARIANCE * variance.mean()).sqrt()
        return cls(((output - mean) / deviation).half(), mean, deviation)

    def error(self, output: Tensor) -> Tensor:
        """Mean squared distance to another output, in deviations."""
        return ((output - self.mean) / self.deviation - self.states).square().mean()


@dataclass(frozen=True)
class WordsTarget:
    """The predicted distribution at each position: its likeliest words, and the total probability of all others.

    Attributes:
        words: (positions, kept), word ids.
        log_probabilities: (positions, kept + 1), the last one for all others.
    """

    words: Tensor
    log_probabilities: Tensor

    @classmethod
    def of(cls, scores: Tensor) -> "WordsTarget":
        log_probabilities = scores.float().log_softmax(-1)
        words = log_probabilities.topk(min(LIKELIEST, scores.size(-1))).indices
        return cls(words, _with_others(log_probabilities, words))

    def divergence(self, scores: Tensor) -> Tensor:
        """Kullback-Leibler divergence from these distributions to those of scores (positions, vocabulary), mean over positions."""
        student = _with_others(scores.float().log_softmax(-1), self.words)
        dense = self.log_probabilities
        return (dense.exp() * (dense - student)).sum(-1).mean()


def _with_others(log_probabilities: Tensor, words: Tensor) -> Tensor:
    likeliest = log_probabilities.gather(-1, words)
    others = (1 - likeliest.exp().sum(-1, keepdim=True)).clamp_min(SMALLEST)
    return torch.cat([likeliest, others.log()], -1)


class Targets:
    """A dense model's outputs on the calibration batches, each computed at its first use.

    Args:
        dense: the model and its stack.
        folder: folder for one file per batch, with 2 bytes per channel and position of each layer.
    """

    def __init__(self, dense: Model, calibration: Calibration, folder: Path):
        self._dense, self._calibration, self._folder = dense, calibration, folder

    def of(self, number: int, batch: Any) -> tuple[list[LayerTarget], WordsTarget | None]:
        path = self._folder / f"{number}.pt"
        if not path.exists():
            with torch.no_grad():
                layers, scores = computed(*self._dense, self._calibration, batch)
            words = None if scores is None else WordsTarget.of(scores)
            torch.save(([vars(LayerTarget.of(output)) for output in layers], words and vars(words)), path)
        layers, words = torch.load(path, mmap=True, weights_only=True)
        return [LayerTarget(**layer) for layer in layers], words and WordsTarget(**words)


def computed(model: nn.Module, stack: LayerStack, calibration: Calibration, batch: Any) -> tuple[list[Tensor], Tensor | None]:
    """The output of each layer (positions without padding, width), and scores (positions, vocabulary) if there is `predict`."""
    scores = None
    with recorded_calls(stack) as calls:
        if calibration.predict is None:
            calibration.run_layers(model, batch)
        else:
            scores = calibration.predict(model, batch)
    if len(calls) < len(stack.layers):
        missing = next(index for index in range(len(stack.layers)) if index not in calls)
        raise InputError(f"the calibration never ran layer {missing}; `encode` or `predict` must run all layers of the model")
    outputs = [(call.output, call.padding) for _, call in sorted(calls.items())]
    return [widened(stack.real_positions(output, padding)) for output, padding in outputs if output is not None], scores
