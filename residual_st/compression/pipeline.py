"""Compression of a stack of trained layers to a shared one: all stages in order."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

import torch
from torch import nn

from residual_st.compression.budget import Budget, budget_of, fits_within
from residual_st.compression.config import CompressionConfig, refuse_keywords
from residual_st.compression.correction import correct_if_better
from residual_st.compression.fit import Fit, Stack, relative_error
from residual_st.compression.layer_weights import LayerWeights, Metric, read_layer, write_layer
from residual_st.compression.moments import Calibration, Moments, gather
from residual_st.compression.refinement import refine
from residual_st.errors import InputError
from residual_st.progress import progress
from residual_st.sharing import (
    ResidualLinear,
    ResidualRanks,
    SharedForm,
    SharedWeights,
    check_alike,
    check_untied,
    form_of,
    in_order,
    matrices,
    matrix_parameters,
    share_layers,
    weight_of,
)
from residual_st.stacks import LayerStack, copied, stack_of

ROUNDS = 20  # maximum rounds of factorization


@dataclass
class Compressed:
    """The result of compressing a stack.

    Attributes:
        shared_weights: the owner of every U; registered in the stack's owner, or by the caller if the stack has none.
        form: which layers share, and the rank and diagonal of each.
        errors: layer -> matrix name -> relative error `||W - (U + A B + diag(d))|| / ||W||`, weighted where calibrated.
        parameters_before: number of weights in the dense matrices, without biases.
        parameters_after: number of weights in the compressed matrices, without biases.
        uncovered: names of a layer's other weights, which are unchanged.
    """

    shared_weights: SharedWeights
    form: SharedForm
    errors: list[dict[str, float]]
    parameters_before: int
    parameters_after: int
    uncovered: list[str]


@torch.inference_mode(False)
@torch.enable_grad()
def compress(
    model: nn.Module,
    config: CompressionConfig | None = None,
    *,
    stack: LayerStack | None = None,
    calibration: Calibration | None = None,
    moments: Moments | None = None,
    **keywords: NoReturn,
) -> Compressed:
    """Compress a trained model in place: share its layers with the least change of its output.

    Args:
        model: the argument of the calibration's functions: a model known to `stack_of`, such as fairseq's, or an `nn.ModuleList` of
            L layers with `nn.Linear`s and pointwise convolutions of the same names and shapes (out, in).
        config: settings of the form and of the compression; None for the defaults.
        stack: the layers in any other model, and how they are called.
        calibration: data to weight errors by; without it each matrix's error is relative to its norm. Refinement needs a
            calibration with `encode`.
        moments: the result of `gather` on the calibration data, to compute it only once for several compressions.

    If an error is raised, the model is unchanged.

    Raises:
        InputError: if the layers differ or already share their matrices, or are called in a way that their stack does not describe;
            or a plan, a rank or a budget does not fit them.
    """
    refuse_keywords("compress", keywords)
    config = config or CompressionConfig()
    if config.refine_updates and (calibration is None or calibration.encode is None):
        raise InputError("refinement needs calibration data with `encode`, to compare the layers' outputs")
    stack = stack or stack_of(model)
    form = plan_form(stack, config, calibrated=calibration is not None)
    check_untied(model, stack.layers)
    owned = getattr(stack.owner, "shared_weights", None)
    if owned is not None and list(owned.parameters()):
        raise InputError(f"{type(stack.owner).__name__} already owns the shared weights of other layers; expand those first")
    for name, parameter in stack.layers.named_parameters():
        if not parameter.isfinite().all():
            raise InputError(f"{name} of the layers contains values that are not finite; all weights must be finite numbers")
    if moments is None and calibration is not None:
        moments = gather(model, stack, calibration)
    weights = weighed([read_layer(layer) for layer in in_order(stack.layers)], moments)
    trained = Stack(weights, stack.symmetries if config.align else [], config.diagonal)
    if isinstance(form, SharedForm):
        fits = [trained.fit(form.plan, [list(row) for row in form.ranks.rows], ROUNDS)]
    else:
        fits = fits_within(trained, form, ROUNDS)
    fit = fits[0] if len(fits) == 1 or calibration is None else _least_loss(model, stack, fits, config.diagonal, calibration)

    before = matrix_parameters(stack.layers)
    dense = copied(model, stack) if config.refine_updates else None
    with _undone_on_error(stack, weights):
        shared_weights = _install(stack, fit, config.diagonal)
        if config.correct and calibration is not None and calibration.encode is not None:
            correct_if_better(model, stack, fit, calibration)
        if dense is not None and calibration is not None:
            refine(dense, (model, stack), shared_weights, calibration, config.refine_updates)
        errors = [
            {name: relative_error(weights[name], weight_of(matrix)) for name, matrix in matrices(layer)}
            for layer, weights in zip(in_order(stack.layers), fit.layers)
        ]
    form = _form_of(fit, config.diagonal)
    stack.record(form)
    return Compressed(shared_weights, form, errors, before, matrix_parameters(stack.layers), stack.uncovered)


def _form_of(fit: Fit, diagonal: bool) -> SharedForm:
    return SharedForm(fit.plan, ResidualRanks(tuple(fit.layers[0]), tuple(map(tuple, fit.ranks))), diagonal)


def _least_loss(model: nn.Module, stack: LayerStack, fits: list[Fit], diagonal: bool, calibration: Calibration) -> Fit:
    """The fit with the least loss on the held-out batches."""
    losses = []
    for fit in progress(fits, desc="comparing forms", unit="form"):
        tried, tried_stack = copied(model, stack)
        _install(tried_stack, fit, diagonal)
        losses.append(calibration.held_out_loss(tried))
    if min(losses) == math.inf:
        raise InputError("the loss on the held-out batches is not finite in any form that was tried")
    return fits[losses.index(min(losses))]


def plan_form(stack: LayerStack, config: CompressionConfig, calibrated: bool = False) -> SharedForm | Budget:
    """The form that `compress` would give a stack, or the budget from which it would choose one. Fast: no model is run.

    Without calibration data every matrix shares, since errors of weights do not predict the loss of a form.

    Raises:
        InputError: see `compress`.
    """
    if stack.is_shared:
        raise InputError("the model already has shared layers; expand it first")
    if config.weight_fraction is None:
        group_size = 3 if config.group_size is None else config.group_size
        rank = 2 if config.rank is None else config.rank
        return form_of(stack.layers, group_size, config.pattern, rank, config.diagonal)
    shapes = list(check_alike(stack.layers).values())
    sharing_only = config.group_size is not None or not calibrated
    return budget_of(
        shapes, len(stack.layers), config.diagonal, config.weight_fraction, config.group_size, config.pattern, sharing_only
    )


def weighed(weights: list[LayerWeights], moments: Moments | None) -> list[LayerWeights]:
    """Give every matrix its metric."""
    if moments is None:
        # the same for all matrices of a kind, so that a group's U is the plain mean; kinds relative to their norm
        for name in weights[0]:
            size = sum(layer[name].weight.square().sum().item() for layer in weights)
            scale = 1 / size if size > 0 else 1.0
            for layer in weights:
                layer[name] = replace(layer[name], trained_metric=partial(Metric, scale=scale))
        return weights
    return [
        {
            name: replace(matrix, trained_metric=layer_moments[name].metric, input_mean=layer_moments[name].input_mean)
            for name, matrix in layer.items()
        }
        for layer, layer_moments in zip(weights, moments)
    ]


@contextlib.contextmanager
def _undone_on_error(stack: LayerStack, trained: list[LayerWeights]) -> Iterator[None]:
    """Restore a dense stack's modules and values, and its owner's attributes, if the block raises."""
    layers = in_order(stack.layers)
    kept = [dict(matrices(layer)) for layer in layers]
    of_matrices = {id(parameter) for its_matrices in kept for matrix in its_matrices.values() for parameter in matrix.parameters()}
    values = [*stack.layers.parameters(), *stack.layers.buffers()]
    others = [(value, value.detach().clone()) for value in values if id(value) not in of_matrices]
    shared_weights = getattr(stack.owner, "shared_weights", None)
    try:
        yield
    except BaseException:
        for layer, its_matrices, weights in zip(layers, kept, trained):
            for name, matrix in its_matrices.items():
                layer.set_submodule(name, matrix)
            write_layer(layer, weights)
        with torch.no_grad():
            for value, before in others:
                value.copy_(before)
        if stack.owner is not None:
            if shared_weights is not None:
                stack.owner.shared_weights = shared_weights
            elif hasattr(stack.owner, "shared_weights"):
                del stack.owner.shared_weights
        raise


def _install(stack: LayerStack, fit: Fit, diagonal: bool) -> SharedWeights:
    """Share the layers and write the fit into them."""
    stack.prepare(stack.layers)
    layers = in_order(stack.layers)
    for layer, weights in zip(layers, fit.layers):
        write_layer(layer, weights)
    trained = [{name: matrix.weight.requires_grad for name, matrix in matrices(layer)} for layer in layers]
    shared_weights = share_layers(stack.layers, _form_of(fit, diagonal))
    with torch.no_grad():
        for index, layer in enumerate(layers):
            for name, linear in matrices(layer):
                if not isinstance(linear, ResidualLinear):  # a whole matrix that shares nothing: unchanged
                    continue
                for term in (linear.up, linear.down, linear.diagonal):
                    if term is not None:
                        term.requires_grad_(trained[index][name])  # frozen weights stay frozen
                matrix, residual = fit.layers[index][name], fit.residuals[index][name]
                if linear.shared_weight is not None:
                    linear.shared_weight.copy_(fit.shared[fit.plan.groups[index]][name])
                if linear.up is not None and linear.down is not None:
                    linear.up.copy_(residual.up)
                    linear.down.copy_(residual.down)
                if linear.diagonal is not None and residual.diagonal is not None:
                    linear.diagonal.copy_(residual.diagonal)
                if linear.bias is not None and matrix.bias is not None and matrix.input_mean is not None:
                    linear.bias.copy_(matrix.bias + fit.difference(index, name) @ matrix.input_mean)
    stack.register(shared_weights)
    return shared_weights
