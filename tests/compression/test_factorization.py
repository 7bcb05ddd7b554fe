import weakref

import pytest
import torch

from residual_st.compression.factorization import factorize, mean
from residual_st.compression.layer_weights import Metric, damped
from residual_st.compression.low_rank import best_diagonal, low_rank, truncated_svd


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def metric(rows, columns, seed):
    """A random metric with uneven weights on both sides."""
    outputs = draw(rows, rows, seed=seed) * torch.logspace(0, 1, rows, dtype=torch.float64)
    inputs = draw(columns, columns, seed=seed + 1) * torch.logspace(0, 1, columns, dtype=torch.float64)
    return Metric(damped(inputs.T @ inputs), damped(outputs.T @ outputs), scale=0.5 + seed)


METRICS = {
    "plain": [Metric() for _ in range(3)],
    "inputs": [Metric(inputs=metric(10, 6, seed).inputs) for seed in range(3)],
    "both": [metric(10, 6, seed) for seed in range(3)],
}


def composed(factors):
    return [factors.composed(layer) for layer in range(len(factors.residuals))]


def total(weights, metrics, approximations):
    return sum(m.squared_norm(w - a) for m, w, a in zip(metrics, weights, approximations))


@pytest.mark.parametrize("kind", METRICS)
def test_shared_matrix_minimises_the_error(kind):
    weights, metrics = [draw(10, 6, seed=seed) for seed in range(3)], METRICS[kind]
    shared = mean(weights, metrics)
    gradient = sum(m.weigh(w - shared) for m, w in zip(metrics, weights))
    assert gradient.abs().max() < 1e-3 * max(m.weigh(w).abs().max() for m, w in zip(metrics, weights))
    best = total(weights, metrics, [shared] * 3)
    assert all(total(weights, metrics, [shared + 0.01 * draw(10, 6, seed=9 + trial)] * 3) > best for trial in range(5))


@pytest.mark.parametrize("kind", METRICS)
def test_low_rank_factors_minimise_the_error(kind):
    """The error is that of the discarded singular values of the whitened matrix (Eckart-Young)."""
    weight, one = draw(10, 6), METRICS[kind][1]
    up, down = low_rank(weight, one, 2)
    assert (up.shape, down.shape) == ((10, 2), (2, 6))
    expected = one.scale * torch.linalg.svdvals(one.whiten(weight))[2:].square().sum()
    assert one.squared_norm(weight - up @ down) == pytest.approx(expected.item())


@pytest.mark.parametrize("shape", [(10, 6), (6, 10)])
@pytest.mark.parametrize("with_metric", [False, True])
def test_diagonal_minimises_the_error(shape, with_metric):
    weight, one = draw(*shape), metric(*shape, seed=3) if with_metric else Metric()
    diagonal = best_diagonal(weight, one)
    rest = weight.clone()
    rest.diagonal().sub_(diagonal)
    assert one.weigh(rest).diagonal().abs().max() < 1e-9 * one.weigh(weight).abs().max()


@pytest.mark.parametrize("kind", METRICS)
def test_error_falls_with_rounds_below_that_of_each_term(kind):
    weights, metrics = [draw(10, 6, seed=seed) for seed in range(3)], METRICS[kind]
    errors = [total(weights, metrics, composed(factorize(weights, metrics, [2, 2, 2], True, rounds))) for rounds in (1, 3, 30)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] < total(weights, metrics, composed(factorize(weights, metrics, [2, 2, 2], False, 1)))
    assert errors[0] < total(weights, metrics, composed(factorize(weights, metrics, [0, 0, 0], True, 1)))


@pytest.mark.parametrize("kind", METRICS)
def test_weights_that_have_the_form_are_recovered(kind):
    """Full-rank residuals reproduce any weights; ranks may differ between layers."""
    weights, metrics = [draw(10, 6, seed=seed) for seed in range(3)], METRICS[kind]
    for actual, weight in zip(composed(factorize(weights, metrics, [6, 6, 6], True)), weights):
        torch.testing.assert_close(actual, weight, rtol=0, atol=1e-9)
    shapes = [residual.up.shape[1] for residual in factorize(weights, metrics, [0, 1, 5], False).residuals]
    assert shapes == [0, 1, 5]


def test_subspace_iteration_equals_the_full_decomposition():
    matrix = draw(200, 120) * torch.logspace(0, -2, 120, dtype=torch.float64)
    left, values, right = truncated_svd(matrix, 4)
    assert torch.allclose(values, torch.linalg.svdvals(matrix)[:4], rtol=1e-4)
    assert torch.linalg.norm(matrix - (left * values) @ right).item() == pytest.approx(
        torch.linalg.svdvals(matrix)[4:].square().sum().sqrt().item(), rel=1e-4
    )
    again = truncated_svd(matrix, 4)
    assert all(torch.equal(one, two) for one, two in zip((left, values, right), again))


def test_metric_is_freed_without_garbage_collection():
    """The metrics of a large model take hundreds of megabytes, which must not wait for the cyclic collector."""
    used = metric(10, 6, 1)
    used.narrow.weigh(draw(10, 6).float())
    low_rank(draw(10, 6), used, 1)
    used = weakref.ref(used)
    assert used() is None
