"""Stage 1: second moments of each matrix's inputs and output gradients on real data, which weight its errors."""

import contextlib
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from residual_st.compression.bfloat16 import in_bfloat16
from residual_st.compression.sums import MatrixMoments, TensorFile
from residual_st.errors import InputError
from residual_st.progress import progress
from residual_st.sharing import channels_last, in_order, matrices, shape_of
from residual_st.stacks import LayerStack, UnclearLayoutError, keeping_activations, recorded_calls

MOST_HELD_OUT = 16  # maximum number of held-out batches
DRAWS = 72  # total draws from the Fisher information: another draw on a batch is worth nearly as much as another batch
MOST_DRAWS = 3  # maximum draws per batch
MOST_BYTES = 2.5e9  # maximum bytes of sums in memory at a time


@dataclass(frozen=True)
class Calibration:
    """Calibration data, by which errors are weighted.

    Attributes:
        batches: inputs of `loss`.
        loss: `loss(model, batch)` runs the model and returns its loss, summed over the batch, as a scalar with gradient.
        encode: `encode(model, batch)` runs the layers; its return value is ignored. Needed for correction and refinement.
        predict: `predict(model, batch)` runs the model and returns word scores (positions, vocabulary) without padding. Errors are
            then weighted by the predicted distributions, without labels, and refinement matches these distributions too.
        more: additional batches for correction and refinement, which need many; moments need few.
    """

    batches: Sequence[Any]
    loss: Callable[[Any, Any], Tensor]  # of the caller's own class of model
    encode: Callable[[Any, Any], Any] | None = None
    predict: Callable[[Any, Any], Tensor] | None = None
    more: Sequence[Any] = ()

    def __post_init__(self) -> None:
        for name, batches in (("batches", self.batches), ("more", self.more)):
            if not isinstance(batches, Sequence) or isinstance(batches, str):
                raise InputError(
                    f"the calibration's {name} are a {type(batches).__name__}; give a list, since they are read several times"
                )
        if not self.batches:
            raise InputError("the calibration has no batches; give at least one")
        for name in ("loss", "encode", "predict"):
            function = getattr(self, name)
            if not callable(function) and (function is not None or name == "loss"):
                raise InputError(f"the calibration's {name} {function!r} must be a function of the model and a batch")

    @property
    def parts(self) -> tuple[Sequence[Any], Sequence[Any]]:
        """The batches to compute with, and the held-out batches, by which choices are judged.

        The last sixth of the batches is held out, at most 16. A single batch is used for both.
        """
        held_out = min(max(1, len(self.batches) // 6), MOST_HELD_OUT)
        return self.batches[:-held_out] or self.batches, self.batches[-held_out:]

    def run_layers(self, model: nn.Module, batch: Any) -> None:
        """`encode`.

        Raises:
            InputError: if there is none.
        """
        if self.encode is None:
            raise InputError("the calibration has no `encode`, which runs the layers for correction and refinement")
        self.encode(model, batch)

    def held_out_loss(self, model: nn.Module) -> float:
        """The loss on the held-out batches. NaN counts as infinite, so that no comparison prefers such a model."""
        with evaluating(model), torch.no_grad():
            total = sum(self.loss(model, batch).item() for batch in self.parts[1])
        return math.inf if math.isnan(total) else total

    def sensitivities(self, model: nn.Module, number: int) -> Iterator[Tensor]:
        """Scalars for one batch, whose gradients measure how sensitive the model's output is to errors.

        Their second moments are the Fisher information of the predicted words if there is `predict`, else of the labels' loss.

        Raises:
            InputError: if loss or scores are not finite, or have no gradient.
        """
        if self.predict is not None:
            scores = self.predict(model, self.batches[number]).float()
            draws = max(1, min(MOST_DRAWS, DRAWS // len(self.batches)))
            scalars: Iterable[Tensor] = (
                drawn_information(scores, seed) / draws**0.5 for seed in range(draws * number, draws * (number + 1))
            )
        else:
            scalars = [self.loss(model, self.batches[number])]
        for scalar in scalars:
            if not isinstance(scalar, Tensor) or scalar.numel() != 1 or not scalar.requires_grad:
                raise InputError("the calibration's loss must return a scalar tensor that depends on the layers' outputs")
            if not scalar.isfinite():
                raise InputError(f"the loss of the dense model is {scalar.item()} on calibration batch {number}; it must be finite")
            yield scalar.sum()


def drawn_information(scores: Tensor, seed: int) -> Tensor:
    """A scalar whose gradient with respect to scores (positions, vocabulary) is random with mean 0.

    Its covariance is the Fisher information of the softmax, `diag(p) - p p^T` at each position, as in K-FAC (Martens and Grosse,
    arXiv 1503.05671, section 2.2). Gradients for words sampled from the model have the same covariance with more noise.
    """
    probabilities = scores.detach().softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(scores.shape, generator=generator).to(scores) * probabilities.sqrt()
    return (scores * (normal - probabilities * normal.sum(-1, keepdim=True))).sum()


Moments = list[dict[str, MatrixMoments]]  # layer -> matrix name -> moments
Place = tuple[int, str]  # layer and matrix name
Unclear = dict[Place, UnclearLayoutError]  # matrices whose layout is unclear, with the errors


@torch.inference_mode(False)
@torch.enable_grad()
def gather(model: nn.Module, stack: LayerStack, calibration: Calibration) -> Moments:
    """Run the model on the calibration data and sum the moments of every matrix of its stack.

    At most `MOST_BYTES` of sums are in memory at a time: a larger stack is split into parts, and the model runs once per part.
    Complete sums are stored in a temporary file, which is deleted with the moments.

    Raises:
        InputError: if a matrix is never called, for example because its weight is read directly, so that its inputs are unknown; if
            padding in them cannot be determined; or if the model's loss or a matrix's input is not finite.
        OSError: if the file cannot be written.
    """
    layers = in_order(stack.layers)
    moments: Moments = []
    file = TensorFile()
    with stack.observing(stack.layers), without_updates(model):
        for part in _parts(layers):
            for index in part:
                moments.append(
                    {name: MatrixMoments(matrix, f"{name} of layer {index}") for name, matrix in matrices(layers[index])}
                )
            _gather_part(model, stack, calibration, moments, part)
            for matrix in (matrix for index in part for matrix in moments[index].values()):
                matrix.store(file)
    return moments


def _parts(layers: list[nn.Module]) -> list[range]:
    """Parts of the layers whose sums are in memory together: as few as possible, of about equal size."""
    shapes = [shape_of(matrix) for layer in layers for _, matrix in matrices(layer)]
    bytes_of_all = sum(4 * (rows**2 + columns**2) / 2 for rows, columns in shapes)
    count = max(1, min(math.ceil(bytes_of_all / MOST_BYTES), len(layers)))
    return [range(len(layers) * part // count, len(layers) * (part + 1) // count) for part in range(count)]


def _gather_part(model: nn.Module, stack: LayerStack, calibration: Calibration, moments: Moments, part: range) -> None:
    every = {(index, name) for index in part for name in moments[index]}
    left = _count(model, stack, calibration, moments, dict.fromkeys(range(len(calibration.batches)), every))
    if left:  # layouts that later batches may have resolved
        left = _count(model, stack, calibration, moments, left)
    for unclear in left.values():
        raise next(iter(unclear.values()))
    for matrix in (matrix for index in part for matrix in moments[index].values()):
        if not matrix.count:
            raise InputError(f"the calibration data never reached {matrix.label}, so its errors cannot be weighted")
        if not (matrix.inputs.squares.is_finite and matrix.gradients.is_finite):
            raise InputError(f"the inputs or gradients of {matrix.label} on the calibration data are not finite")


def _count(
    model: nn.Module, stack: LayerStack, calibration: Calibration, moments: Moments, selected: Mapping[int, Container[Place]]
) -> dict[int, Unclear]:
    """Count batches for the matrices in `selected`, batch -> matrices. Returns those whose layout is unclear, likewise."""
    left = {}
    for number in progress(selected, desc="calibrating", unit="batch"):
        with _observed(stack, moments, selected[number]) as unclear:
            _differentiate(model, calibration, number)
        if unclear:
            left[number] = unclear
    return left


def _differentiate(model: nn.Module, calibration: Calibration, number: int) -> None:
    drawn = calibration.predict is not None  # random gradients: rounding does not matter
    with in_bfloat16(model.parameters()) if drawn else contextlib.nullcontext():
        for scalar in calibration.sensitivities(model, number):
            scalar.backward(retain_graph=True)  # for the next scalar


@contextlib.contextmanager
def _observed(stack: LayerStack, moments: Moments, selected: Container[Place]) -> Iterator[Unclear]:
    """Add the inputs and gradients of the selected matrices to their moments.

    Matrices with an unclear layout are skipped; the yielded dict contains them with their errors.
    """
    unclear: Unclear = {}
    latest: tuple[int, str, Tensor] | None = None  # layer, name and inputs of the last matrix called
    with contextlib.ExitStack() as context:
        calls = context.enter_context(recorded_calls(stack))

        def observe(index: int, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
            def hook(linear: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
                nonlocal latest
                padding = calls[index].memory_padding if name in stack.memory_matrices else calls[index].padding
                if not output.requires_grad:  # no gradient reaches this matrix
                    output.requires_grad_()

                def rows(states: Tensor) -> Tensor:
                    return stack.real_positions(channels_last(linear, states), padding, name)

                matrix, other = moments[index][name], None  # the other matrix was just called with the same inputs
                if latest is not None and latest[0] == index and latest[2] is arguments[0] and latest[:2] not in unclear:
                    other = moments[index][latest[1]]
                latest = (index, name, arguments[0])
                try:
                    matrix.add_inputs(rows(arguments[0].detach()), other)
                    output.register_hook(lambda gradient: matrix.add_gradients(rows(gradient)))
                except UnclearLayoutError as error:
                    unclear[index, name] = error
                return output.clone()  # fairseq scales queries in place, which would drop the hook

            return hook

        for index, layer in enumerate(in_order(stack.layers)):
            for name, matrix in matrices(layer):
                if (index, name) in selected:
                    context.callback(matrix.register_forward_hook(observe(index, name)).remove)
        yield unclear


@contextlib.contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode, without activation checkpointing; each module's mode is restored."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with keeping_activations(*models):
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


@contextlib.contextmanager
def without_updates(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with gradients of activations only, not of parameters."""
    with evaluating(model), requiring_gradients(model, False):
        yield


@contextlib.contextmanager
def requiring_gradients(model: nn.Module, required: bool) -> Iterator[None]:
    """All of a model's parameters with or without gradients; each one's setting is restored."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(required)
    try:
        yield
    finally:
        for parameter, mark in before:
            parameter.requires_grad_(mark)
