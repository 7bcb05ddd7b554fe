"""Stage 3: the shared matrix, and the low-rank and diagonal residual of each layer, that minimise a group's total error."""

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from residual_st.compression.layer_weights import Metric
from residual_st.compression.low_rank import best_diagonal, low_rank
from residual_st.sharing.ranks import Alone

MEAN_STEPS = 50  # maximum conjugate gradient steps
START_STEPS, ROUND_STEPS = 15, 1  # the same in alternation with residuals: before the first round, and per round
TOLERANCE = 1e-4  # relative change of the error at which alternation stops
ROUNDS_ALONE = 4  # alternations between low-rank term and diagonal of a matrix that shares nothing


@dataclass
class Residual:
    """`up` (out, R) `@ down` (R, in) `+ diag(diagonal)`; `diagonal` (min(out, in),) or None."""

    up: Tensor
    down: Tensor
    diagonal: Tensor | None

    def dense(self) -> Tensor:
        weight = self.up @ self.down
        if self.diagonal is not None:
            weight.diagonal().add_(self.diagonal)
        return weight

    def weighed(self, metric: Metric) -> Tensor:
        """`metric.weigh(self.dense())`, from the factors."""
        left = self.up if metric.outputs is None else metric.outputs @ self.up
        right = self.down if metric.inputs is None else self.down @ metric.inputs
        weight = left @ right
        if self.diagonal is not None:
            length = len(self.diagonal)
            scaled = torch.diag(self.diagonal) if metric.outputs is None else metric.outputs[:, :length] * self.diagonal
            inputs = torch.eye(length, self.down.shape[1], dtype=weight.dtype) if metric.inputs is None else metric.inputs[:length]
            weight[: len(scaled)] += scaled @ inputs
        return metric.scale * weight


@dataclass
class Factors:
    """A group's factors of one matrix: `shared` (out, in), None if no layer uses it, and a residual for each layer.

    `alone`: for each layer, whether its matrix is the residual alone, without the shared matrix.
    """

    shared: Tensor | None
    residuals: list[Residual]
    alone: list[bool]

    def composed(self, layer: int) -> Tensor:
        """The approximation of one layer's weight, (out, in)."""
        residual = self.residuals[layer].dense()
        return residual if self.alone[layer] or self.shared is None else self.shared + residual


class Solution(NamedTuple):
    """U (out, in), and `image = Σ G U S`."""

    matrix: Tensor
    image: Tensor

    def error(self, weighed: list[Tensor], weights: list[Tensor]) -> float:
        """`Σ tr((W - U)ᵀ G (W - U) S)` over several W; `weighed` contains `G W S`."""
        total = sum((matrix * weight).sum() for matrix, weight in zip(weighed, weights))
        return (total - ((2 * reduce(torch.add, weighed) - self.image) * self.matrix).sum()).item()


class WeightedMean:
    """The one matrix U that minimises the summed weighted errors of several W: solves `Σ G U S = Σ G W S`.

    In closed form if only one side has a metric, else by preconditioned conjugate gradients, with products in float32, and solution
    and residual in float64.

    Args:
        metrics: metrics of the W. Quantities that depend only on them are computed once.
    """

    def __init__(self, metrics: list[Metric]):
        self._metrics = metrics
        self._scale = sum(metric.scale for metric in metrics)
        if metrics[0].inputs is not None:
            inputs = (metric.scale * metric.inputs.double() for metric in metrics if metric.inputs is not None)
            self._inputs_root = torch.linalg.cholesky(reduce(torch.add, inputs))
        if metrics[0].outputs is not None:
            outputs = (metric.scale * metric.outputs.double() for metric in metrics if metric.outputs is not None)
            outputs_root = torch.linalg.cholesky(reduce(torch.add, outputs) / self._scale)
            # preconditioner: inverse of the mean metric of each side, as if the sum of products were the product of sums
            self._preconditioner = [torch.cholesky_inverse(root).float() for root in (outputs_root, self._inputs_root)]

    def __call__(self, weighed: list[Tensor], start: Solution | None = None, steps: int = MEAN_STEPS) -> Solution:
        """U, in float64, for the W in `weighed`, which contains `G W S` (out, in).

        Args:
            start: solution of a similar problem with these metrics.
            steps: maximum conjugate gradient steps.
        """
        right = reduce(torch.add, weighed).double()
        if self._metrics[0].inputs is None and self._metrics[0].outputs is None:
            return Solution(right / self._scale, right)
        if self._metrics[0].outputs is None:
            return Solution(torch.cholesky_solve(right.T, self._inputs_root).T, right)
        matrix, image = start or self.started(self._precondition(right.float()).double())
        left = right - image
        direction = size = None
        for _ in range(steps):
            preconditioned = self._precondition(left.float())
            size, previous = (left * preconditioned).sum(), size
            if size <= 1e-10 * (right * matrix).sum().abs():
                break
            direction = preconditioned if direction is None else preconditioned + (size / previous).float() * direction
            change = self._weigh(direction)
            step = size / (direction * change).sum()
            matrix, left = matrix + step * direction, left - step * change
        return Solution(matrix, right - left)

    def started(self, matrix: Tensor) -> Solution:
        """A matrix (out, in) as an initial solution."""
        return Solution(matrix, self._weigh(matrix.float()).double())

    def _weigh(self, matrix: Tensor) -> Tensor:
        return reduce(torch.add, (metric.narrow.weigh(matrix) for metric in self._metrics))

    def _precondition(self, matrix: Tensor) -> Tensor:
        outputs, inputs = self._preconditioner
        return outputs @ matrix @ inputs


def mean(weights: list[Tensor], metrics: list[Metric], steps: int = MEAN_STEPS) -> Tensor:
    """`WeightedMean` of weights (out, in), which have the metrics' precision. Returns float64."""
    return WeightedMean(metrics)([metric.weigh(weight) for metric, weight in zip(metrics, weights)], steps=steps).matrix


def factorize(
    weights: list[Tensor], metrics: list[Metric], ranks: list[int], diagonal: bool, rounds: int = 60, start: Factors | None = None
) -> Factors:
    """Factorize a group's weights. Weights whose rank is `Alone` share nothing.

    Args:
        weights: weights of the K layers of a group, each (out, in), float64.
        metrics: error metric of each weight.
        ranks: R of each layer.
        diagonal: whether residuals have a diagonal.
        rounds: maximum rounds; fewer if the error converges.
        start: factors to start from, of any ranks, with the same layers `Alone`.
    """
    alone = [isinstance(rank, Alone) for rank in ranks]
    together = [layer for layer in range(len(weights)) if not alone[layer]]
    shared, residuals = None, {}  # layer -> residual
    if together:
        begun = None
        if start is not None and start.shared is not None:
            begun = start.shared, [start.residuals[layer] for layer in together]
        shared, shared_residuals = _alternate(
            [weights[layer] for layer in together],
            [metrics[layer] for layer in together],
            [ranks[layer] for layer in together],
            diagonal,
            rounds,
            begun,
        )
        residuals = dict(zip(together, shared_residuals))
    for layer in range(len(weights)):
        if alone[layer]:
            residuals[layer] = _without_shared(weights[layer], metrics[layer], ranks[layer], diagonal)
    return Factors(shared, [residuals[layer] for layer in range(len(weights))], alone)


def _without_shared(weight: Tensor, metric: Metric, rank: int, diagonal: bool) -> Residual:
    """The residual for a matrix without a shared one: exact and without a diagonal at full rank."""
    if rank == min(weight.shape):
        identity = torch.eye(rank, dtype=weight.dtype)
        return Residual(identity, weight, None) if len(weight) == rank else Residual(weight, identity, None)
    residual = _no_residual(weight, diagonal)
    for _ in range(ROUNDS_ALONE if diagonal else 1):
        residual = _best_residual(weight, metric, rank, residual, diagonal)
    return residual


def _alternate(
    weights: list[Tensor],
    metrics: list[Metric],
    ranks: list[int],
    diagonal: bool,
    rounds: int,
    start: tuple[Tensor, list[Residual]] | None,
) -> tuple[Tensor, list[Residual]]:
    """Alternate between the shared matrix, given all residuals, and each residual, given the shared matrix.

    A residual's step is the exact minimum over its terms, and the shared matrix's step is towards its minimum, so the error never
    rises. Deterministic.
    """
    no_residuals = not diagonal and not any(ranks)
    solve = WeightedMean(metrics)
    weighed = [metric.weigh(weight) for metric, weight in zip(metrics, weights)]
    if start is None:
        shared = solve(weighed, steps=MEAN_STEPS if no_residuals else START_STEPS)
        residuals = [_no_residual(weight, diagonal) for weight in weights]
    else:
        shared, residuals = solve.started(start[0]), start[1]
    if no_residuals:
        return shared.matrix, residuals

    def residuals_of(shared: Tensor, residuals: list[Residual]) -> list[Residual]:
        return [
            _best_residual(weight - shared, metric, rank, residual, diagonal)
            for weight, metric, rank, residual in zip(weights, metrics, ranks, residuals)
        ]

    before = float("inf")
    for _ in range(rounds):
        residuals = residuals_of(shared.matrix, residuals)
        rest = [weight - residual.dense() for weight, residual in zip(weights, residuals)]
        weighed_rest = [whole - residual.weighed(metric) for whole, metric, residual in zip(weighed, metrics, residuals)]
        shared = solve(weighed_rest, shared, ROUND_STEPS)
        error = shared.error(weighed_rest, rest)
        if error >= before * (1 - TOLERANCE):
            break
        before = error
    return shared.matrix, residuals_of(shared.matrix, residuals)


def _no_residual(weight: Tensor, diagonal: bool) -> Residual:
    out_features, in_features = weight.shape
    none = weight.new_zeros(min(weight.shape)) if diagonal else None
    return Residual(weight.new_zeros(out_features, 0), weight.new_zeros(0, in_features), none)


def _best_residual(weight: Tensor, metric: Metric, rank: int, before: Residual, diagonal: bool) -> Residual:
    """Solve the low-rank term given the diagonal, then the diagonal given the low-rank term."""
    rest = weight
    if before.diagonal is not None:
        rest = weight.clone()
        rest.diagonal().sub_(before.diagonal)
    up, down = low_rank(rest, metric, rank, before.down)
    return Residual(up, down, best_diagonal(weight - up @ down, metric) if diagonal else None)
