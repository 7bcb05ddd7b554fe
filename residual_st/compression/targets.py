"""What the dense model computes on each batch, computed once and kept on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from residual_st.compression.moments import Calibration
from residual_st.compression.sums import widened
from residual_st.errors import InputError
from residual_st.stacks import LayerStack, recorded_calls

LIKELIEST = 64  # words of the vocabulary that are kept of each distribution; the others count as one
LEAST_VARIANCE = 0.01  # of a channel, over the mean of all
SMALLEST = 1e-7  # probability of all other words

Model = tuple[nn.Module, LayerStack]  # a model and the stack inside it


@dataclass(frozen=True)
class LayerTarget:
    """A layer's output in half precision, each channel less its mean and over its deviation.

    A few channels of a trained model may hold most of the variance, and be far from 0: so every one of them counts alike, and is
    kept as precisely as any other.

    Attributes:
        states: (positions that are not padding, width).
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
        """Mean squared distance of another output, in deviations."""
        return ((output - self.mean) / self.deviation - self.states).square().mean()


@dataclass(frozen=True)
class WordsTarget:
    """The distribution of each word: its likeliest words, and the probability of all others together.

    Attributes:
        words: (positions, kept), numbers of words.
        log_probabilities: (positions, kept + 1), the last of the others.
    """

    words: Tensor
    log_probabilities: Tensor

    @classmethod
    def of(cls, scores: Tensor) -> "WordsTarget":
        log_probabilities = scores.float().log_softmax(-1)
        words = log_probabilities.topk(min(LIKELIEST, scores.size(-1))).indices
        return cls(words, _with_others(log_probabilities, words))

    def divergence(self, scores: Tensor) -> Tensor:
        """Kullback and Leibler's, from these distributions to those of scores (positions, vocabulary), mean over positions."""
        found = _with_others(scores.float().log_softmax(-1), self.words)
        wanted = self.log_probabilities
        return (wanted.exp() * (wanted - found)).sum(-1).mean()


def _with_others(log_probabilities: Tensor, words: Tensor) -> Tensor:
    likeliest = log_probabilities.gather(-1, words)
    others = (1 - likeliest.exp().sum(-1, keepdim=True)).clamp_min(SMALLEST)
    return torch.cat([likeliest, others.log()], -1)


class Targets:
    """What a dense model computes on the batches of a calibration, each computed when it is first asked for.

    Args:
        dense: the model, which is then no longer needed for a batch that was asked for.
        folder: for one file a batch. They take 2 bytes for each channel and position of each layer.
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
    """The output of each layer (positions that are not padding, width), and scores (positions, vocabulary), if there are any."""
    scores = None
    with recorded_calls(stack) as calls:
        if calibration.predict is None:
            calibration.encode(model, batch)
        else:
            scores = calibration.predict(model, batch)
    if len(calls) < len(stack.layers):
        missing = next(index for index in range(len(stack.layers)) if index not in calls)
        raise InputError(f"the calibration never came to layer {missing}; `encode`, or `predict`, must run all layers of the model")
    return [widened(stack.real_positions(call.output, call.padding)) for _, call in sorted(calls.items())], scores
