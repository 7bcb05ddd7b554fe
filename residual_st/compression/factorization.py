"""Stage 2: one shared matrix, and a low-rank and a diagonal residual for each layer, that lose least over a group together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from residual_st.compression.layer_weights import Metric

TOLERANCE = 1e-4  # of the error, below which a round of alternation is the last
EXACT_SHARE = 0.2  # of the smaller side: a larger rank takes a full decomposition instead of subspace iteration
OVERSAMPLING = 8  # columns beyond the rank in subspace iteration


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


@dataclass
class Factors:
    """A group's share of one matrix: `shared` (out, in) and a residual for each layer."""

    shared: Tensor
    residuals: list[Residual]

    def composed(self, layer: int) -> Tensor:
        """The approximation of one layer's weight, (out, in)."""
        return self.shared + self.residuals[layer].dense()


def mean(weights: list[Tensor], metrics: list[Metric], start: Tensor | None = None) -> Tensor:
    """The one matrix U that minimises the summed weighted errors: solves `Σ G U S = Σ G W S`.

    In closed form where only one side has a metric, else by conjugate gradients.
    """
    scale = sum(metric.scale for metric in metrics)
    if metrics[0].inputs is None and metrics[0].outputs is None:
        return sum(metric.scale * weight for metric, weight in zip(metrics, weights)) / scale
    right = sum(metric.weigh(weight) for metric, weight in zip(metrics, weights))
    right_root = torch.linalg.cholesky(sum(metric.scale * metric.inputs for metric in metrics))
    if metrics[0].outputs is None:
        return torch.cholesky_solve(right.T, right_root).T
    left_root = torch.linalg.cholesky(sum(metric.scale * metric.outputs for metric in metrics) / scale)

    def precondition(residual: Tensor) -> Tensor:
        return torch.cholesky_solve(torch.cholesky_solve(residual, left_root).T, right_root).T

    solution = precondition(right) if start is None else start
    residual = right - sum(metric.weigh(solution) for metric in metrics)
    direction = preconditioned = precondition(residual)
    size = (residual * preconditioned).sum()
    goal = 1e-10 * (right * precondition(right)).sum()
    for _ in range(3 if start is not None else 50):
        if size <= goal:
            break
        image = sum(metric.weigh(direction) for metric in metrics)
        step = size / (direction * image).sum()
        solution = solution + step * direction
        residual = residual - step * image
        preconditioned = precondition(residual)
        size, previous = (residual * preconditioned).sum(), size
        direction = preconditioned + size / previous * direction
    return solution


def factorize(
    weights: list[Tensor], metrics: list[Metric], ranks: list[int], diagonal: bool, rounds: int = 60, start: Factors | None = None
) -> Factors:
    """Alternate between the shared matrix, given all residuals, and each residual, given the shared matrix.

    Each step is the exact minimum over what it changes, so the error falls to the end. Deterministic.

    Args:
        weights: of the K layers of a group, each (out, in), float64.
        metrics: what the errors of each are measured in.
        ranks: R of each layer.
        diagonal: whether residuals have a diagonal.
        rounds: at most so many, fewer where the error stands still.
        start: factors to go on from, of any ranks.
    """
    shared = mean(weights, metrics) if start is None else start.shared
    residuals = [_no_residual(weight, diagonal) for weight in weights] if start is None else start.residuals
    if not diagonal and not any(ranks):
        return Factors(shared, residuals)
    before = float("inf")
    for _ in range(rounds):
        residuals = [
            _best_residual(weight - shared, metric, rank, residual, diagonal)
            for weight, metric, rank, residual in zip(weights, metrics, ranks, residuals)
        ]
        rest = [weight - residual.dense() for weight, residual in zip(weights, residuals)]
        shared = mean(rest, metrics, shared)
        error = sum(metric.squared_norm(weight - shared) for metric, weight in zip(metrics, rest))
        if error >= before * (1 - TOLERANCE):
            break
        before = error
    return Factors(shared, residuals)


def _no_residual(weight: Tensor, diagonal: bool) -> Residual:
    out_features, in_features = weight.shape
    none = weight.new_zeros(min(weight.shape)) if diagonal else None
    return Residual(weight.new_zeros(out_features, 0), weight.new_zeros(0, in_features), none)


def _best_residual(weight: Tensor, metric: Metric, rank: int, before: Residual, diagonal: bool) -> Residual:
    """The low-rank term given the diagonal, then the diagonal given the low-rank term."""
    rest = weight
    if diagonal:
        rest = weight.clone()
        rest.diagonal().sub_(before.diagonal)
    up, down = low_rank(rest, metric, rank, before.down)
    return Residual(up, down, best_diagonal(weight - up @ down, metric) if diagonal else None)


def best_diagonal(weight: Tensor, metric: Metric) -> Tensor:
    """The diagonal that comes closest to `weight`: solves `(G ∘ S) d = diag(G W S)` on the rows and columns that it covers."""
    length = min(weight.shape)
    if metric.outputs is None and metric.inputs is None:
        return weight.diagonal().clone()
    outputs = torch.eye(length, dtype=weight.dtype) if metric.outputs is None else metric.outputs[:length, :length]
    inputs = torch.eye(length, dtype=weight.dtype) if metric.inputs is None else metric.inputs[:length, :length]
    right = metric.weigh(weight).diagonal() / metric.scale
    return torch.cholesky_solve(right[:, None], torch.linalg.cholesky(outputs * inputs)).flatten()


def low_rank(weight: Tensor, metric: Metric, rank: int, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The factors (out, rank) and (rank, in) whose product comes closest to `weight`, of balanced size.

    `before`, the `down` of a like problem, is where subspace iteration starts.
    """
    if not rank:
        return weight.new_zeros(len(weight), 0), weight.new_zeros(0, weight.shape[1])
    start = None if before is None or not len(before) else metric.whiten_rows(before).T
    left, values, right = truncated_svd(metric.whiten(weight), rank, start)
    up, down = metric.colour(left * values.sqrt(), values.sqrt()[:, None] * right)
    up_norm, down_norm = up.norm(dim=0), down.norm(dim=1)
    balance = torch.where(up_norm * down_norm > 0, (down_norm / up_norm).sqrt(), 1.0)
    return up * balance, down / balance[:, None]


def truncated_svd(matrix: Tensor, rank: int, start: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triples: (out, rank), (rank,), (rank, in).

    By subspace iteration (Halko et al., arXiv 0909.4061, algorithm 4.4) where the rank is a small part of the matrix, from `start`
    (in, any rank), which need only come close. The columns that fill up the start are drawn from a fixed seed.
    """
    if rank + OVERSAMPLING > EXACT_SHARE * min(matrix.shape):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank]
    known = 0 if start is None else start.shape[1]
    drawn = torch.randn(
        matrix.shape[1],
        max(OVERSAMPLING, rank + OVERSAMPLING - known),
        dtype=matrix.dtype,
        generator=torch.Generator().manual_seed(1),
    )
    basis = drawn if start is None else torch.cat([start, drawn], dim=1)
    for _ in range(2 if known >= rank else 8):
        basis, _ = torch.linalg.qr(matrix @ basis)
        basis, _ = torch.linalg.qr(matrix.T @ basis)
    left, values, right = torch.linalg.svd(matrix @ basis, full_matrices=False)
    return left[:, :rank], values[:rank], right[:rank] @ basis.T


def squared_singular_values(matrix: Tensor) -> Tensor:
    """(min(out, in),), falling. From the Gram matrix of the smaller side, several times faster than a decomposition."""
    gram = matrix.T @ matrix if len(matrix) > matrix.shape[1] else matrix @ matrix.T
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)
