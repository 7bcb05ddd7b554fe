"""Stage 2: align the inner units of layers with each other, so that their weights can be compared and shared.

The order and basis of a trained layer's inner units are arbitrary. Alignment permutes, rotates or scales them without changing the
layer's function.
"""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from residual_st.compression.basis import Reordering, Rotation
from residual_st.compression.factorization import WeightedMean
from residual_st.compression.layer_weights import LayerWeights, MatrixWeights
from residual_st.stacks.symmetries import AttentionHeads, FeedForwardUnits, Symmetry

TOLERANCE = 1e-3  # relative change of a group's error below which the reference is not refined further
REFERENCE_ROUNDS = 6
REFERENCE_STEPS = 2  # conjugate gradient steps for each reference
MAX_SCALE = 4.0  # largest scale of a feed-forward unit per step; keeps weights in the range of half precision


def _align_heads(heads: AttentionHeads, layer: LayerWeights, target: dict[str, Tensor]) -> LayerWeights:
    """Orthogonal Procrustes for each pair of heads, if rotations are allowed, then the best assignment of heads.

    On the side of a rotation, the metric is replaced by its mean diagonal, since only then there is a closed form.
    """
    query, key, value, output = (layer[name] for name in (heads.query, heads.key, heads.value, heads.output))
    keys = _overlap(query, target[heads.query], heads.count) + _overlap(key, target[heads.key], heads.count)
    values = _overlap(value, target[heads.value], heads.count) + _output_overlap(output, target[heads.output], heads.count)
    size = keys.shape[-1]
    turned = [(keys, heads.query_key), (values, True)]
    target_heads = layer_heads = list(range(heads.count))
    if heads.permutable:
        gain = reduce(torch.add, (_gain(overlap, may_rotate) for overlap, may_rotate in turned))
        target_heads, layer_heads = linear_sum_assignment(gain.numpy(), maximize=True)
    rotations = []
    for overlap, may_rotate in turned:
        rotation = torch.zeros(heads.count, size, heads.count, size, dtype=overlap.dtype)
        rotation[target_heads, :, layer_heads, :] = torch.eye(size, dtype=overlap.dtype)
        if may_rotate:
            left, _, right = torch.linalg.svd(overlap[target_heads, layer_heads])
            rotation[target_heads, :, layer_heads, :] = left @ right
        rotations.append(Rotation(rotation.reshape(heads.count * size, heads.count * size)))
    query_key, value_output = rotations
    return {
        **layer,
        heads.query: query.with_outputs(query_key),
        heads.key: key.with_outputs(query_key),
        heads.value: value.with_outputs(value_output),
        heads.output: output.with_inputs(value_output),
    }


def _gain(overlap: Tensor, may_rotate: bool) -> Tensor:
    """(target head, layer head): overlap of two heads, after the best rotation if allowed."""
    return torch.linalg.matrix_norm(overlap, "nuc") if may_rotate else overlap.diagonal(dim1=-2, dim2=-1).sum(-1)


def _overlap(matrix: MatrixWeights, target: Tensor, heads: int) -> Tensor:
    """(target head, layer head, size, size): weighted inner products of the rows of heads."""
    metric = matrix.metric
    weighted = matrix.weight if metric.inputs is None else matrix.weight @ metric.inputs
    return metric.scale * _mean_diagonal(metric.outputs) * _blocks(target @ weighted.T, heads)


def _output_overlap(matrix: MatrixWeights, target: Tensor, heads: int) -> Tensor:
    metric = matrix.metric
    weighted = matrix.weight if metric.outputs is None else metric.outputs @ matrix.weight
    return metric.scale * _mean_diagonal(metric.inputs) * _blocks(target.T @ weighted, heads)


def _blocks(overlap: Tensor, heads: int) -> Tensor:
    size = len(overlap) // heads
    return overlap.reshape(heads, size, heads, size).transpose(1, 2)


def _align_units(units: FeedForwardUnits, layer: LayerWeights, target: dict[str, Tensor]) -> LayerWeights:
    """The best assignment of units, with the best scale of each."""
    first, second = layer[units.first], layer[units.second]
    first_metric, second_metric = first.metric, second.metric
    # the cost of an assignment: error of unit i in the place of unit j, with the other side's weight of i
    first_weight = _diagonal(first_metric.outputs, len(first.weight)) * first_metric.scale
    second_weight = _diagonal(second_metric.inputs, len(first.weight)) * second_metric.scale
    cross_first, target_first = _products(first.weight, target[units.first], first_metric.inputs)
    cross_second, target_second = _products(second.weight.T, target[units.second].T, second_metric.outputs)
    cost = first_weight[:, None] * (target_first - 2 * cross_first) + second_weight[:, None] * (target_second - 2 * cross_second)
    chosen, places = linear_sum_assignment(cost.numpy())
    order = torch.empty(len(chosen), dtype=torch.long)
    order[places] = torch.from_numpy(chosen)
    scale = torch.ones_like(cross_first[:, 0])
    if units.scalable and first_metric.outputs is not None:
        at_place = (torch.arange(len(order)), torch.argsort(order))
        scale = _best_scale(
            first_weight * target_first[at_place[1]],
            first_weight * cross_first[at_place],
            second_weight * target_second[at_place[1]],
            second_weight * cross_second[at_place],
        )
    basis = Reordering(order, scale)
    return {**layer, units.first: first.with_outputs(basis), units.second: second.with_inputs(basis)}


def _mean_diagonal(moments: Tensor | None) -> float:
    return 1.0 if moments is None else moments.diagonal().mean().item()


def _diagonal(moments: Tensor | None, size: int) -> Tensor:
    return torch.ones(size, dtype=torch.float64) if moments is None else moments.diagonal()


def _products(rows: Tensor, target: Tensor, metric: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weighted inner products of every row with every row of the target, and the target's squared norms."""
    weighted_target = target if metric is None else target @ metric
    return rows @ weighted_target.T, (target * weighted_target).sum(1)


def _best_scale(first_square: Tensor, first_cross: Tensor, second_square: Tensor, second_cross: Tensor) -> Tensor:
    """The scale s of each unit that minimises ||w1 - t1 / s||² + ||w2 - t2 s||² (t: rows of the target), by a search over log s.

    Errors are measured at the layer's current scale, so that scaling a unit does not change its importance.
    """
    scale = torch.linspace(-math.log(MAX_SCALE), math.log(MAX_SCALE), 81, dtype=first_square.dtype).exp()[:, None]
    error = first_square / scale**2 - 2 * first_cross / scale + second_square * scale**2 - 2 * second_cross * scale
    return scale.flatten()[error.argmin(0)]


def align_to(layer: LayerWeights, target: dict[str, Tensor], changes: Sequence[Symmetry]) -> LayerWeights:
    """The layer with its units aligned to `target` (matrix name -> (out, in))."""
    for symmetry in changes:
        if isinstance(symmetry, AttentionHeads):
            layer = _align_heads(symmetry, layer, target)
        else:
            layer = _align_units(symmetry, layer, target)
    return layer


def align_group(layers: list[LayerWeights], changes: Sequence[Symmetry]) -> list[LayerWeights]:
    """Align the units of a group's layers: to the first layer, then to the running mean."""
    if not changes or len(layers) == 1:
        return layers
    target = {name: matrix.weight for name, matrix in layers[0].items()}
    before = float("inf")
    for _ in range(REFERENCE_ROUNDS):
        layers = [align_to(layer, target, changes) for layer in layers]
        error = 0.0
        for name in target:
            weights, metrics = [layer[name].weight for layer in layers], [layer[name].metric for layer in layers]
            weighed = [metric.weigh(weight) for metric, weight in zip(metrics, weights)]
            solve = WeightedMean(metrics)
            solution = solve(weighed, solve.started(target[name]), REFERENCE_STEPS)
            target[name] = solution.matrix
            error += solution.error(weighed, weights)
        if error >= before * (1 - TOLERANCE):
            break
        before = error
    return layers
