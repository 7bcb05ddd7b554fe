"""Stage 2: call the units of alike layers by matching names, so that their weights can be compared and shared.

A trained layer computes with units in an arbitrary order and basis. The changes made here leave its function as it is.
"""

import math
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from residual_st.compression.basis import Reordering, Rotation
from residual_st.compression.factorization import WeightedMean
from residual_st.compression.layer_weights import LayerWeights

TOLERANCE = 1e-3  # of a group's error, below which the reference is refined no further
REFERENCE_ROUNDS = 6
REFERENCE_STEPS = 2  # of conjugate gradients in each
MAX_SCALE = 4.0  # of one feed-forward unit in one step; keeps weights in the range of half precision


@dataclass(frozen=True)
class AttentionHeads:
    """Heads may be permuted, and each head's query/key and value/output bases rotated."""

    query: str
    key: str
    value: str
    output: str
    heads: int

    def align(self, layer: LayerWeights, target: dict[str, Tensor]) -> LayerWeights:
        """The layer in the basis in which it comes closest to `target` (matrix name -> (out, in)).

        Orthogonal Procrustes for each pair of heads, then the assignment of heads that gains most. Where a rotation meets a
        metric on its own side, that side's metric is replaced by its mean diagonal: only then is there a closed form.
        """
        query_key = self._overlap(layer[self.query], target[self.query]) + self._overlap(layer[self.key], target[self.key])
        value_output = self._overlap(layer[self.value], target[self.value])
        value_output = value_output + self._output_overlap(layer[self.output], target[self.output])
        size = query_key.shape[-1]
        gain = torch.linalg.matrix_norm(query_key, "nuc") + torch.linalg.matrix_norm(value_output, "nuc")
        target_heads, layer_heads = linear_sum_assignment(gain.numpy(), maximize=True)
        rotations = []
        for overlap in (query_key, value_output):
            left, _, right = torch.linalg.svd(overlap[target_heads, layer_heads])
            rotation = torch.zeros(self.heads, size, self.heads, size, dtype=overlap.dtype)
            rotation[target_heads, :, layer_heads, :] = left @ right
            rotations.append(Rotation(rotation.reshape(self.heads * size, self.heads * size)))
        query_key, value_output = rotations
        return {
            **layer,
            self.query: layer[self.query].with_outputs(query_key),
            self.key: layer[self.key].with_outputs(query_key),
            self.value: layer[self.value].with_outputs(value_output),
            self.output: layer[self.output].with_inputs(value_output),
        }

    def _overlap(self, matrix, target: Tensor) -> Tensor:
        """(target head, layer head, size, size): weighted inner products of the rows of heads."""
        metric = matrix.metric
        weighted = matrix.weight if metric.inputs is None else matrix.weight @ metric.inputs
        return metric.scale * _mean_diagonal(metric.outputs) * self._blocks(target @ weighted.T)

    def _output_overlap(self, matrix, target: Tensor) -> Tensor:
        metric = matrix.metric
        weighted = matrix.weight if metric.outputs is None else metric.outputs @ matrix.weight
        return metric.scale * _mean_diagonal(metric.inputs) * self._blocks(target.T @ weighted)

    def _blocks(self, overlap: Tensor) -> Tensor:
        size = len(overlap) // self.heads
        return overlap.reshape(self.heads, size, self.heads, size).transpose(1, 2)


@dataclass(frozen=True)
class FeedForwardUnits:
    """Hidden units may be permuted, and, under ReLU, scaled between the two matrices."""

    first: str
    second: str
    scalable: bool

    def align(self, layer: LayerWeights, target: dict[str, Tensor]) -> LayerWeights:
        """The layer with its units in the order, and at the scale, in which it comes closest to `target`."""
        first, second = layer[self.first], layer[self.second]
        # the error of unit i at the place of unit j, by which an exchange of units is judged, with the other side's weight of i
        first_weight = _diagonal(first.metric.outputs, len(first.weight)) * first.metric.scale
        second_weight = _diagonal(second.metric.inputs, len(first.weight)) * second.metric.scale
        cross_first, target_first = _products(first.weight, target[self.first], first.metric.inputs)
        cross_second, target_second = _products(second.weight.T, target[self.second].T, second.metric.outputs)
        cost = first_weight[:, None] * (target_first - 2 * cross_first) + second_weight[:, None] * (
            target_second - 2 * cross_second
        )
        units, places = linear_sum_assignment(cost.numpy())
        order = torch.empty(len(units), dtype=torch.long)
        order[places] = torch.from_numpy(units)
        scale = torch.ones_like(cross_first[:, 0])
        if self.scalable and first.metric.outputs is not None:
            at_place = (torch.arange(len(order)), torch.argsort(order))
            scale = _best_scale(
                first_weight * target_first[at_place[1]],
                first_weight * cross_first[at_place],
                second_weight * target_second[at_place[1]],
                second_weight * cross_second[at_place],
            )
        basis = Reordering(order, scale)
        return {**layer, self.first: first.with_outputs(basis), self.second: second.with_inputs(basis)}


def _mean_diagonal(moments: Tensor | None) -> float:
    return 1.0 if moments is None else moments.diagonal().mean().item()


def _diagonal(moments: Tensor | None, size: int) -> Tensor:
    return torch.ones(size, dtype=torch.float64) if moments is None else moments.diagonal()


def _products(rows: Tensor, target: Tensor, metric: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weighted inner products of every row with every row of the target, and the target's squared norms."""
    weighted_target = target if metric is None else target @ metric
    return rows @ weighted_target.T, (target * weighted_target).sum(1)


def _best_scale(first_square: Tensor, first_cross: Tensor, second_square: Tensor, second_cross: Tensor) -> Tensor:
    """The scale s of each unit that minimises ||w1 - t1 / s||² + ||w2 - t2 s||², t being the target's rows, by a search on log s.

    Errors are counted in the layer's present units: a unit that is made larger is not made more important.
    """
    scale = torch.linspace(-math.log(MAX_SCALE), math.log(MAX_SCALE), 81, dtype=first_square.dtype).exp()[:, None]
    error = first_square / scale**2 - 2 * first_cross / scale + second_square * scale**2 - 2 * second_cross * scale
    return scale.flatten()[error.argmin(0)]


def symmetries(layer: nn.Module) -> list[AttentionHeads | FeedForwardUnits]:
    """What may be renamed inside a layer that is built as fairseq's Transformer encoder layers are; nothing in other layers."""
    changes = []
    attention = getattr(layer, "self_attn", None)
    if all(isinstance(getattr(attention, name, None), nn.Linear) for name in ("q_proj", "k_proj", "v_proj", "out_proj")):
        names = (f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj"))
        changes.append(AttentionHeads(*names, heads=attention.num_heads))
    if all(isinstance(getattr(layer, name, None), nn.Linear) for name in ("fc1", "fc2")):
        activation = getattr(layer, "activation_fn", None)
        changes.append(FeedForwardUnits("fc1", "fc2", scalable=activation in (torch.relu, nn.functional.relu)))
    return changes


def align_to(layer: LayerWeights, target: dict[str, Tensor], changes: list[AttentionHeads | FeedForwardUnits]) -> LayerWeights:
    """The layer with its units renamed so that it comes closest to `target` (matrix name -> (out, in))."""
    for symmetry in changes:
        layer = symmetry.align(layer, target)
    return layer


def align_group(layers: list[LayerWeights], changes: list[AttentionHeads | FeedForwardUnits]) -> list[LayerWeights]:
    """Rename the units of a group's layers so that one mean serves them all: to the first layer, then to the running mean."""
    if not changes or len(layers) == 1:
        return layers
    target = {name: matrix.weight for name, matrix in layers[0].items()}
    before = float("inf")
    for _ in range(REFERENCE_ROUNDS):
        layers = [align_to(layer, target, changes) for layer in layers]
        error = 0.0
        for name in target:
            weights, metrics = ([getattr(layer[name], part) for layer in layers] for part in ("weight", "metric"))
            weighed = [metric.weigh(weight) for metric, weight in zip(metrics, weights)]
            solve = WeightedMean(metrics)
            solution = solve(weighed, solve.started(target[name]), REFERENCE_STEPS)
            target[name] = solution.matrix
            error += solution.error(weighed, weights)
        if error >= before * (1 - TOLERANCE):
            break
        before = error
    return layers
