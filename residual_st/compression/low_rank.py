"""The low-rank matrix and the diagonal that are closest to a matrix in its metric."""

from collections.abc import Sequence

import torch
from torch import Tensor

from residual_st.compression.layer_weights import Metric

EXACT_SHARE = 0.2  # ranks above this fraction of the smaller side use a full decomposition instead of subspace iteration
OVERSAMPLING = 8  # columns beyond the rank in subspace iteration


def best_diagonal(weight: Tensor, metric: Metric) -> Tensor:
    """The diagonal closest to `weight`: solves `(G ∘ S) d = diag(G W S)` on the rows and columns of the main diagonal."""
    length = min(weight.shape)
    known = metric.inputs if metric.outputs is None else metric.outputs
    if known is None:
        return weight.diagonal().clone()
    rows = weight[:length] if metric.outputs is None else metric.outputs[:length] @ weight
    right = rows.diagonal() if metric.inputs is None else (rows * metric.inputs[:length]).sum(1)
    if metric.diagonal_root is None:  # one side alone is known
        return right / known.diagonal()[:length]
    return torch.cholesky_solve(right[:, None], metric.diagonal_root).flatten()


def low_rank(weight: Tensor, metric: Metric, rank: int, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The factors (out, rank) and (rank, in) whose product is closest to `weight`, with balanced norms.

    Subspace iteration starts from `before`, the `down` of a similar problem.
    """
    if not rank:
        return weight.new_zeros(len(weight), 0), weight.new_zeros(0, weight.shape[1])
    dtype = torch.float64 if needs_decomposition(rank, weight.shape) else torch.float32
    start = None if before is None or not len(before) else metric.whiten_rows(before.to(dtype)).T
    left, values, right = (factor.double() for factor in truncated_svd(metric.whiten(weight.to(dtype)), rank, start))
    up, down = metric.colour(left * values.sqrt(), values.sqrt()[:, None] * right)
    up_norm, down_norm = up.norm(dim=0), down.norm(dim=1)
    balance = torch.where(up_norm * down_norm > 0, (down_norm / up_norm).sqrt(), 1.0)
    return up * balance, down / balance[:, None]


def needs_decomposition(rank: int, shape: Sequence[int]) -> bool:
    """Whether `rank` singular triples are computed by a full decomposition instead of subspace iteration."""
    return rank + OVERSAMPLING > EXACT_SHARE * min(shape)


def truncated_svd(matrix: Tensor, rank: int, start: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triples: (out, rank), (rank,), (rank, in).

    For small ranks by subspace iteration (Halko et al., arXiv 0909.4061, algorithm 4.4) from `start` (in, any rank), a rough guess.
    Missing columns of the start are drawn at random with a fixed seed.
    """
    if needs_decomposition(rank, matrix.shape):
        return _decomposed(matrix, rank)
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


def _decomposed(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triples of a float64 matrix, from the Gram matrix of its smaller side: several times faster than
    torch.linalg.svd. Directions with a singular value below 1e-8 of the largest are inaccurate.
    """
    if len(matrix) > matrix.shape[1]:
        right, values, left = _decomposed(matrix.T, rank)
        return left.T, values, right.T
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    left, values = vectors[:, -rank:].flip(1), squares[-rank:].flip(0).clamp_min(0).sqrt()
    right = left.T @ matrix
    return left, values, torch.where(values[:, None] > 0, right / values[:, None], 0.0)


def squared_singular_values(matrix: Tensor) -> Tensor:
    """(min(out, in),), descending. From the Gram matrix of the smaller side, several times faster than a decomposition."""
    gram = matrix.T @ matrix if len(matrix) > matrix.shape[1] else matrix @ matrix.T
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.flip(0).clamp_min(0)
