"""Stage 1: second moments of each matrix's inputs and output gradients on real data, which weigh its errors."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from residual_st.compression.layer_weights import OUTPUT_DAMPING, Metric, damped
from residual_st.modules import matrices
from residual_st.progress import progress


@dataclass(frozen=True)
class Calibration:
    """Data to weigh errors by.

    Attributes:
        batches: what `loss` takes.
        loss: `loss(model, batch)` runs the model and returns its loss, summed over the batch, as a scalar with gradient.
        encode: `encode(model, batch)` runs the layers; what it returns is not used. Needed for refinement alone.
    """

    batches: Sequence[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    encode: Callable[[nn.Module, Any], Any] | None = None


def padding_mask(arguments: tuple, keywords: dict) -> Tensor | None:
    """The mask (batch, time) that a layer was called with, True where there is padding; None if it was called without."""
    mask = keywords.get("encoder_padding_mask", arguments[1] if len(arguments) > 1 else None)
    return None if mask is None else mask.bool()


class MatrixMoments:
    """Sums over the positions that one matrix of one layer has seen, in float64.

    Inputs are counted from the mean of the first batch: where they hardly vary, the difference between their squares and the square
    of their mean would be rounding errors.
    """

    def __init__(self, linear):
        self.count = 0
        self.origin = torch.zeros(linear.in_features, dtype=torch.float64)
        self.input_sum = torch.zeros(linear.in_features, dtype=torch.float64)
        self.input_squares = torch.zeros(linear.in_features, linear.in_features, dtype=torch.float64)
        self.gradient_squares = torch.zeros(linear.out_features, linear.out_features, dtype=torch.float64)

    def add_inputs(self, inputs: Tensor) -> None:
        if not self.count and len(inputs):
            self.origin = inputs.mean(0).double()
        inputs = inputs - self.origin.to(inputs.dtype)
        self.count += len(inputs)
        self.input_sum += inputs.sum(0, dtype=torch.float64)
        self.input_squares += inputs.T @ inputs

    def add_gradients(self, gradients: Tensor) -> None:
        self.gradient_squares += gradients.T @ gradients  # in their own precision, and summed over batches in float64

    @property
    def input_mean(self) -> Tensor:
        return self.origin + self._mean_deviation

    @property
    def _mean_deviation(self) -> Tensor:
        return self.input_sum / self.count

    @property
    def input_covariance(self) -> Tensor:
        return self.input_squares / self.count - torch.outer(self._mean_deviation, self._mean_deviation)

    def metric(self) -> Metric:
        """With the inputs' covariance: the mean's error goes into the bias, which is not shared."""
        return Metric(damped(self.input_covariance), damped(self.gradient_squares / self.count, OUTPUT_DAMPING))


Moments = list[dict[str, MatrixMoments]]  # layer -> matrix name -> moments


def gather(model: nn.Module, layers: nn.ModuleList, calibration: Calibration) -> Moments:
    """Run the model on the calibration data and sum up the moments of every matrix.

    Args:
        model: what the calibration's loss takes.
        layers: L layers inside it, called as `layer(x, padding_mask)` with x (time, batch, width) and padding_mask (batch,
            time) or None, as fairseq does, or as `layer(x)`.
    """
    moments = [{name: MatrixMoments(linear) for name, linear in matrices(layer)} for layer in layers]
    with _observed(layers, moments), _without_updates(model):
        for batch in progress(calibration.batches, desc="calibrating", unit="batch"):
            calibration.loss(model, batch).backward()
    return moments


@contextlib.contextmanager
def _observed(layers: nn.ModuleList, moments: Moments) -> Iterator[None]:
    handles = []
    valid = [None]  # the positions of the running batch that are not padding

    def enter(_layer, arguments, keywords):
        mask = padding_mask(arguments, keywords)
        valid[0] = None if mask is None else ~mask.T.flatten()
        if not arguments[0].requires_grad:  # the first layer: nothing before it is differentiated
            arguments[0].requires_grad_()

    def observe(matrix: MatrixMoments):
        def hook(_linear, arguments, output):
            def flat(tensor):
                rows = tensor.detach().flatten(0, -2)
                return rows if valid[0] is None else rows[valid[0]]

            matrix.add_inputs(flat(arguments[0]))
            output.register_hook(lambda gradient: matrix.add_gradients(flat(gradient)))
            return output.clone()  # fairseq scales queries in place, which would take the hook with it

        return hook

    for layer, layer_moments in zip(layers, moments):
        handles.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
        handles += [linear.register_forward_hook(observe(layer_moments[name])) for name, linear in matrices(layer)]
    attentions = [layer.self_attn for layer in layers if hasattr(getattr(layer, "self_attn", None), "skip_embed_dim_check")]
    for attention in attentions:  # fairseq's otherwise hands its weights to torch's fused function and calls no projection
        attention.skip_embed_dim_check = True
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for attention in attentions:
            attention.skip_embed_dim_check = False


@contextlib.contextmanager
def _without_updates(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients of parameters: only those of activations are wanted."""
    was_training, wanted = model.training, [parameter.requires_grad for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(was_training)
        for parameter, before in zip(model.parameters(), wanted):
            parameter.requires_grad_(before)
