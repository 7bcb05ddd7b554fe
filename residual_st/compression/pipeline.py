"""Turn a stack of trained layers into a shared one: alignment, calibration, factorization and rank allocation in order."""

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from tqdm import tqdm

from residual_st.compat import drop_fused_copies
from residual_st.compression.alignment import align_group, align_to, symmetries
from residual_st.compression.allocation import Spectrum, allocate
from residual_st.compression.factorization import Factors, factorize, squared_singular_values
from residual_st.compression.layer_weights import LayerWeights, MatrixWeights, read_layer, write_layer
from residual_st.compression.moments import Calibration, Moments, gather
from residual_st.compression.refinement import refine
from residual_st.errors import InputError
from residual_st.modules import SharedWeights, matrices, matrix_parameters, share_layers
from residual_st.residual_ranks import ResidualRanks
from residual_st.sharing_plan import SharingPlan

ROUNDS = 20  # of factorization, at most
REALIGNMENTS = 1  # of each layer to its own approximation, residual included
SURVEY_ROUNDS = 6  # of factorization where group sizes are only compared
ALLOCATIONS = 2  # of the ranks, each from the factors of the one before


@dataclass
class Compressed:
    """What became of a stack.

    Attributes:
        shared_weights: the owner of every U; registered beside the layers by `compress(model)`, by the caller for a plain list.
        plan, ranks, diagonal: as the model's flags have them.
        errors: layer -> matrix name -> relative error `||W - (U + A B + diag(d))|| / ||W||`, weighted where calibrated.
        parameters_before, parameters_after: weights in the matrices, biases not counted.
    """

    shared_weights: SharedWeights
    plan: SharingPlan
    ranks: ResidualRanks
    diagonal: bool
    errors: list[dict[str, float]]
    parameters_before: int
    parameters_after: int


@dataclass
class _Fit:
    """One way to share a stack: aligned layers, the factors of every group and matrix, ranks, and the error that is left."""

    plan: SharingPlan
    layers: list[LayerWeights]
    ranks: list[list[int]]
    factors: list[dict[str, Factors]]
    error: float


def compress(
    model: nn.Module,
    *,
    group_size: int | None = None,
    pattern: str = "adjacent",
    rank: int | str | ResidualRanks | None = None,
    weight_fraction: float | None = None,
    diagonal: bool = True,
    calibration: Calibration | None = None,
    moments: Moments | None = None,
    refine_updates: int = 0,
    align: bool = True,
) -> Compressed:
    """Share the layers of a trained model in place, so that it computes nearly what it did.

    Args:
        model: a fairseq model, whose `encoder.transformer_layers` are compressed and whose `encoder.shared_weights` is set; or a
            plain `nn.ModuleList` of L alike layers, each with `nn.Linear`s of the same names and shapes (out, in). Layers named as
            fairseq's (`self_attn.q_proj` ... `fc2`) are aligned first; other layers are compressed in the basis they have.
        group_size: K. None for 3, or, with `weight_fraction`, for the one that loses least.
        pattern: which layers share, as in `SharingPlan.make`.
        rank: R of every residual, or those of each layer and matrix. None for 2, or for what `weight_fraction` allows.
        weight_fraction: instead of `rank`: kept matrix weights over those of the dense stack. Ranks are then chosen for each
            layer and matrix.
        diagonal: whether residuals have a diagonal.
        calibration: data to weigh errors by; without it each matrix's error counts relative to its size.
        moments: what `gather` found on the calibration data, where a model is compressed several times; it then runs once.
        refine_updates: steps by which all terms are then moved together, so that layers' outputs on the calibration data come
            closer to the dense ones; needs a calibration with `encode`.
        align: False leaves out the alignment, to see what it does.

    Raises:
        InputError: if the layers differ or share their matrices already, or a plan, a rank or a budget does not fit them.
    """
    layers = model if isinstance(model, nn.ModuleList) else model.encoder.transformer_layers
    if getattr(getattr(model, "encoder", None), "shared_weights", None):
        raise InputError("the model shares its layers already; expand it first")
    if refine_updates and (calibration is None or calibration.encode is None):
        raise InputError("refinement needs calibration data, to compare the layers' outputs on")
    if rank is not None and weight_fraction is not None:
        raise InputError("a rank and a weight fraction cannot both be given: the fraction chooses the ranks")
    if moments is None and calibration is not None:
        moments = gather(model, layers, calibration)
    weights = _weigh([read_layer(layer) for layer in layers], moments)
    if weight_fraction is None:
        plan = SharingPlan.make(len(layers), group_size or 3, pattern)
        ranks = ResidualRanks.make(2 if rank is None else rank, len(layers), len(weights[0])).ranks
        fit = _fit(weights, layers, plan, [list(row) for row in ranks], diagonal, align)
    else:
        fit = _fit_budget(weights, layers, group_size, pattern, weight_fraction, diagonal, align)
    teacher = copy.deepcopy(model) if refine_updates else None
    compressed = _install(model, layers, fit, diagonal)
    if teacher is not None:
        teacher_layers = teacher if model is layers else teacher.encoder.transformer_layers
        terms = [*dict.fromkeys([*layers.parameters(), *compressed.shared_weights.parameters()])]
        refine(teacher, teacher_layers, model, layers, terms, calibration, refine_updates)
    compressed.errors = _relative_errors(layers, fit.layers)
    return compressed


def _weigh(weights: list[LayerWeights], moments: Moments | None) -> list[LayerWeights]:
    """Give every matrix its metric."""
    if moments is None:
        # all of one kind alike, so that a group's U is the plain mean, and kinds relative to their size
        for name in weights[0]:
            scale = 1 / sum(layer[name].weight.square().sum() for layer in weights).item()
            for layer in weights:
                layer[name] = replace(layer[name], metric=replace(layer[name].metric, scale=scale))
        return weights
    return [
        {
            name: replace(matrix, metric=its_moments[name].metric(), input_mean=its_moments[name].input_mean)
            for name, matrix in layer.items()
        }
        for layer, its_moments in zip(weights, moments)
    ]


def _fit(weights, layers, plan: SharingPlan, ranks: list[list[int]], diagonal: bool, align: bool, rounds: int = ROUNDS) -> _Fit:
    aligned, factors, error = list(weights), [], 0.0
    for group in tqdm(range(plan.n_groups), desc=f"fitting groups of {max(map(plan.groups.count, plan.groups))}", unit="group"):
        members = plan.layers_of(group)
        found = symmetries(layers[members[0]]) if align else []
        group_ranks = [ranks[index] for index in members]
        group_weights = align_group([weights[index] for index in members], found)
        group_factors = _factorize_group(group_weights, group_ranks, diagonal, rounds)
        for _ in range(REALIGNMENTS if found and len(members) > 1 else 0):
            targets = _composed(group_factors, len(members))
            group_weights = [align_to(layer, target, found) for layer, target in zip(group_weights, targets)]
            group_factors = _factorize_group(group_weights, group_ranks, diagonal, rounds, group_factors)
        for index, layer in zip(members, group_weights):
            aligned[index] = layer
        error += _error(group_weights, group_factors)
        factors.append(group_factors)
    return _Fit(plan, aligned, ranks, factors, error)


def _factorize_group(
    weights: list[LayerWeights], ranks: list[list[int]], diagonal: bool, rounds: int, start: dict[str, Factors] | None = None
) -> dict[str, Factors]:
    return {
        name: factorize(
            [layer[name].weight for layer in weights],
            [layer[name].metric for layer in weights],
            [row[index] for row in ranks],
            diagonal,
            rounds,
            start and start[name],
        )
        for index, name in enumerate(weights[0])
    }


def _composed(factors: dict[str, Factors], layers: int) -> list[dict[str, Tensor]]:
    """layer -> matrix name -> composed weight (out, in)"""
    composed = {name: its_factors.composed() for name, its_factors in factors.items()}
    return [{name: weights[index] for name, weights in composed.items()} for index in range(layers)]


def _error(weights: list[LayerWeights], factors: dict[str, Factors]) -> float:
    targets = _composed(factors, len(weights))
    return sum(
        matrix.metric.squared_norm(matrix.weight - target[name])
        for layer, target in zip(weights, targets)
        for name, matrix in layer.items()
    )


def _fit_budget(weights, layers, group_size, pattern, weight_fraction, diagonal, align) -> _Fit:
    """Choose the group size, if it is not given, and the ranks."""
    shapes = [tuple(matrix.weight.shape) for matrix in weights[0].values()]
    per_layer = sum(rows * columns for rows, columns in shapes)
    budget = int(weight_fraction * per_layer * len(weights))
    own = sum(min(shape) for shape in shapes) if diagonal else 0
    sizes = [group_size] if group_size else list(range(2, len(weights) + 1))
    plans = {
        SharingPlan.make(len(weights), size, pattern).groups: size for size in reversed(sizes)
    }  # the smallest K of equal plans
    candidates = []
    for groups in plans:
        plan = SharingPlan(groups)
        left = budget - plan.n_groups * per_layer - own * len(weights)
        if left >= 0:
            candidates.append((plan, left))
    if not candidates:
        smallest = (min(max(groups) + 1 for groups in plans) * per_layer + own * len(weights)) / (per_layer * len(weights))
        raise InputError(
            f"encoder weight fraction {weight_fraction:g} cannot be met: the smallest of these layers"
            f"{f' at group size {group_size}' if group_size else ''} is {math.ceil(smallest * 1000) / 1000:.3f}"
        )
    if len(candidates) > 1:
        surveys = [(_fit_ranks(weights, layers, plan, left, diagonal, align, SURVEY_ROUNDS, 1), left) for plan, left in candidates]
        best, left = min(surveys, key=lambda survey: survey[0].error)
        candidates = [(best.plan, left)]
    plan, left = candidates[0]
    return _fit_ranks(weights, layers, plan, left, diagonal, align, ROUNDS, ALLOCATIONS)


def _fit_ranks(weights, layers, plan, budget: int, diagonal: bool, align: bool, rounds: int, allocations: int) -> _Fit:
    """Fit with equal ranks, then with those that the fit before shows to be best."""
    shapes = [tuple(matrix.weight.shape) for matrix in weights[0].values()]
    equal = min(budget // (len(weights) * sum(map(sum, shapes))), min(map(min, shapes)))
    fit = _fit(weights, layers, plan, [[equal] * len(shapes)] * len(weights), diagonal, align, rounds)
    for _ in range(allocations):
        spectra = []
        for index, layer in enumerate(fit.layers):
            group = plan.groups[index]
            member = plan.layers_of(group).index(index)
            for name, matrix in layer.items():
                factors = fit.factors[group][name]
                rest = matrix.weight - factors.shared
                if diagonal:
                    rest.diagonal().sub_(factors.residuals[member].diagonal)
                energies = matrix.metric.scale * squared_singular_values(matrix.metric.whiten(rest))
                spectra.append(Spectrum(energies, sum(rest.shape)))
        chosen = iter(allocate(spectra, budget))
        fit = _fit(fit.layers, layers, plan, [[next(chosen) for _ in shapes] for _ in weights], diagonal, align, rounds)
    return fit


def _install(model: nn.Module, layers: nn.ModuleList, fit: _Fit, diagonal: bool) -> Compressed:
    """Write the factors into the layers."""
    before = matrix_parameters(layers)
    ranks = ResidualRanks(tuple(map(tuple, fit.ranks)))
    drop_fused_copies(layers)
    for layer, its_weights in zip(layers, fit.layers):
        write_layer(layer, its_weights)
    shared_weights = share_layers(layers, fit.plan, ranks, diagonal)
    with torch.no_grad():
        for index, layer in enumerate(layers):
            group = fit.plan.groups[index]
            member = fit.plan.layers_of(group).index(index)
            for name, linear in matrices(layer):
                matrix, factors = fit.layers[index][name], fit.factors[group][name]
                error = matrix.weight - factors.composed()[member]
                if isinstance(linear, nn.Linear):
                    continue
                residual = factors.residuals[member]
                linear.shared_weight.copy_(factors.shared)
                if linear.rank:
                    linear.up.copy_(residual.up)
                    linear.down.copy_(residual.down)
                if diagonal:
                    linear.diagonal.copy_(residual.diagonal)
                if linear.bias is not None and matrix.input_mean is not None:
                    linear.bias.copy_(matrix.bias + error @ matrix.input_mean)
    if model is not layers:
        model.encoder.shared_weights = shared_weights
    return Compressed(shared_weights, fit.plan, ranks, diagonal, [], before, matrix_parameters(layers))


def _relative_errors(layers: nn.ModuleList, weights: list[LayerWeights]) -> list[dict[str, float]]:
    with torch.no_grad():
        return [
            {name: _relative_error(its_weights[name], linear.weight.double()) for name, linear in matrices(layer)}
            for layer, its_weights in zip(layers, weights)
        ]


def _relative_error(matrix: MatrixWeights, approximation: Tensor) -> float:
    squared_error = matrix.metric.squared_norm(matrix.weight - approximation)
    return math.sqrt(max(squared_error, 0.0) / matrix.metric.squared_norm(matrix.weight))
