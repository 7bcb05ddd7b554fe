"""Basis Sharing (Wang et al., arXiv 2410.03765) as a baseline: one basis for adjacent layers, and coefficients per layer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from residual_st.compression.allocation import Spectrum, allocate
from residual_st.compression.layer_weights import Metric
from residual_st.compression.moments import Moments
from residual_st.sharing import matrices, matrix_parameters


@torch.no_grad()
def in_one_basis(layers: nn.ModuleList, moments: Moments, weight_fraction: float, group_size: int) -> dict:
    """Replace the weights of each group by products with one basis for each matrix name, in place.

    `W[l] = P C[l]`, or `C[l] P` if the input side is longer, with the metric and budget of all systems here and without
    correction. Groups of one layer give low rank. The model keeps dense weights of that rank; returns the number of weights
    that the factors would have.
    """
    groups = [range(start, min(start + group_size, len(layers))) for start in range(0, len(layers), group_size)]
    kinds = [(group, name) for group in groups for name, _ in matrices(layers[0])]
    shared = [_basis(layers, moments, group, name) for group, name in kinds]
    ranks = allocate([spectrum for spectrum, _ in shared], int(weight_fraction * matrix_parameters(layers)))
    for (group, name), (_, in_basis), rank in zip(kinds, shared, ranks):
        for index, weight in zip(group, in_basis(rank)):
            linear = layers[index].get_submodule(name)
            if linear.bias is not None:
                linear.bias.add_((linear.weight.double() - weight) @ moments[index][name].input_mean)
            linear.weight.copy_(weight)
    kept = sum(
        spectrum.whole if rank == len(spectrum.energies) else rank * spectrum.cost for (spectrum, _), rank in zip(shared, ranks)
    )
    return {"ranks": str(ranks), "kept_encoder": round(kept / matrix_parameters(layers), 4)}


def _basis(layers: nn.ModuleList, moments: list, group: range, name: str) -> tuple[Spectrum, Callable]:
    """The error reduction of each rank of a basis, and a function of the rank that returns the layers' weights in that basis."""
    weights = [layers[index].get_submodule(name).weight.double() for index in group]
    metrics = [moments[index][name].metric() for index in group]
    rows, columns = weights[0].shape
    if columns > rows:  # one basis for the inputs
        weights = [weight.T for weight in weights]
        metrics = [Metric(metric.outputs, metric.inputs) for metric in metrics]
    common = torch.linalg.cholesky(sum(metric.outputs for metric in metrics) / len(metrics))
    own = [torch.linalg.cholesky(metric.inputs) for metric in metrics]
    white = torch.cat([common.T @ weight @ root for weight, root in zip(weights, own)], dim=1)
    squares, vectors = torch.linalg.eigh(white @ white.T)
    cost = max(rows, columns) + len(group) * min(rows, columns)

    def in_basis(rank: int) -> list[Tensor]:
        if rank == len(squares):
            shared = weights
        else:
            basis = torch.linalg.solve_triangular(common.T, vectors[:, -rank:], upper=True)
            shared = [basis @ (vectors[:, -rank:].T @ common.T @ weight) for weight in weights]
        return [weight.T for weight in shared] if columns > rows else shared

    return Spectrum(squares.flip(0).clamp_min(0), cost, len(group) * rows * columns), in_basis
