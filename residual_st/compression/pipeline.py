"""Turn a stack of trained layers into a shared one: all stages in order."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn

from residual_st.compat import drop_fused_copies
from residual_st.compression.alignment import symmetries
from residual_st.compression.budget import fit_budget, plans_within
from residual_st.compression.layer_weights import LayerWeights, read_layer, write_layer
from residual_st.compression.moments import Calibration, Moments, gather
from residual_st.compression.refinement import refine
from residual_st.compression.stack import Fit, Stack, relative_error
from residual_st.errors import InputError
from residual_st.modules import ResidualLinear, SharedWeights, check_alike, check_ranks, matrices, matrix_parameters, share_layers
from residual_st.residual_ranks import ResidualRanks
from residual_st.sharing_plan import SharingPlan

ROUNDS = 20  # of factorization, at most


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
    if refine_updates and (calibration is None or calibration.encode is None):
        raise InputError("refinement needs calibration data, to compare the layers' outputs on")
    layers = model if isinstance(model, nn.ModuleList) else model.encoder.transformer_layers
    form = plan_form(model, group_size, pattern, rank, weight_fraction, diagonal)
    if moments is None and calibration is not None:
        moments = gather(model, layers, calibration)
    weights = _weigh([read_layer(layer) for layer in layers], moments)
    stack = Stack(weights, symmetries(layers[0]) if align else [], diagonal)
    if weight_fraction is None:
        plan, ranks = form
        fit = stack.fit(plan, [list(row) for row in ranks.ranks], ROUNDS)
    else:
        fit = fit_budget(stack, form, ROUNDS)

    before = matrix_parameters(layers)
    teacher = copy.deepcopy(model) if refine_updates else None
    ranks = ResidualRanks(tuple(map(tuple, fit.ranks)))
    shared_weights = _install(layers, fit, ranks, diagonal)
    if model is not layers:
        model.encoder.shared_weights = shared_weights
    if teacher is not None:
        teacher_layers = teacher if model is layers else teacher.encoder.transformer_layers
        refine((teacher, teacher_layers), (model, layers), shared_weights, calibration, refine_updates)
    errors = [
        {name: relative_error(weights[name], linear.weight) for name, linear in matrices(layer)}
        for layer, weights in zip(layers, fit.layers)
    ]
    return Compressed(shared_weights, fit.plan, ranks, diagonal, errors, before, matrix_parameters(layers))


def plan_form(
    model: nn.Module,
    group_size: int | None,
    pattern: str,
    rank: int | str | ResidualRanks | None,
    weight_fraction: float | None,
    diagonal: bool,
) -> tuple[SharingPlan, ResidualRanks] | dict[SharingPlan, int]:
    """What `compress` would make of a model, which costs nothing to know: a plan and ranks, or the plans that fit a budget.

    Raises:
        InputError: as `compress` does.
    """
    layers = model if isinstance(model, nn.ModuleList) else model.encoder.transformer_layers
    if any(isinstance(module, ResidualLinear) for module in layers.modules()):
        raise InputError("the model shares its layers already; expand it first")
    if rank is not None and weight_fraction is not None:
        raise InputError("a rank and a weight fraction cannot both be given: the fraction chooses the ranks")
    shapes = check_alike(layers)
    if weight_fraction is not None:
        return plans_within(list(shapes.values()), len(layers), diagonal, weight_fraction, group_size, pattern)
    plan = SharingPlan.make(len(layers), 3 if group_size is None else group_size, pattern)
    ranks = ResidualRanks.make(2 if rank is None else rank, len(layers), len(shapes))
    check_ranks(ranks, shapes)
    return plan, ranks


def _weigh(weights: list[LayerWeights], moments: Moments | None) -> list[LayerWeights]:
    """Give every matrix its metric."""
    if moments is None:
        # all of one kind alike, so that a group's U is the plain mean, and kinds relative to their size
        for name in weights[0]:
            size = sum(layer[name].weight.square().sum() for layer in weights).item()
            scale = 1 / size if size > 0 else 1.0
            for layer in weights:
                layer[name] = replace(layer[name], metric=replace(layer[name].metric, scale=scale))
        return weights
    return [
        {
            name: replace(matrix, metric=layer_moments[name].metric(), input_mean=layer_moments[name].input_mean)
            for name, matrix in layer.items()
        }
        for layer, layer_moments in zip(weights, moments)
    ]


def _install(layers: nn.ModuleList, fit: Fit, ranks: ResidualRanks, diagonal: bool) -> SharedWeights:
    """Share the layers and write the fit into them."""
    drop_fused_copies(layers)
    for layer, weights in zip(layers, fit.layers):
        write_layer(layer, weights)
    shared_weights = share_layers(layers, fit.plan, ranks, diagonal)
    with torch.no_grad():
        for index, layer in enumerate(layers):
            for name, linear in matrices(layer):
                if isinstance(linear, nn.Linear):  # alone in its group: it stays as it is
                    continue
                matrix, residual = fit.layers[index][name], fit.residuals[index][name]
                linear.shared_weight.copy_(fit.shared[fit.plan.groups[index]][name])
                if linear.rank:
                    linear.up.copy_(residual.up)
                    linear.down.copy_(residual.down)
                if diagonal:
                    linear.diagonal.copy_(residual.diagonal)
                if linear.bias is not None and matrix.input_mean is not None:
                    linear.bias.copy_(matrix.bias + fit.difference(index, name) @ matrix.input_mean)
    return shared_weights
