"""Turn a stack of trained layers into a shared one: all stages in order."""

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

ROUNDS = 20  # of factorization, at most


@dataclass
class Compressed:
    """What became of a stack.

    Attributes:
        shared_weights: the owner of every U; registered beside the layers as the stack says, or else by the caller.
        form: which layers share, and what each keeps.
        errors: layer -> matrix name -> relative error `||W - (U + A B + diag(d))|| / ||W||`, weighted where calibrated.
        parameters_before: weights in the dense matrices, biases not counted.
        parameters_after: those in the compressed matrices.
        uncovered: names of a layer's other weights, which stay as they were.
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
    """Share the layers of a trained model in place, so that it computes nearly what it did.

    Args:
        model: what the calibration's functions take: one that `stack_of` knows, such as fairseq's, or a plain `nn.ModuleList` of L
            alike layers, each with `nn.Linear`s and pointwise convolutions of the same names and shapes (out, in).
        config: the form and how it is found; None for the defaults.
        stack: the layers inside another model, and how they are called.
        calibration: data to weigh errors by; without it each matrix's error counts relative to its size. Refinement needs one
            with `encode`.
        moments: what `gather` found on the calibration data, where a model is compressed several times; it then runs once.

    Whatever is raised, the model is then what it was before.

    Raises:
        InputError: if the layers differ or share their matrices already, or are called in a way that their stack does not describe;
            or a plan, a rank or a budget does not fit them.
    """
    refuse_keywords("compress", keywords)
    config = config or CompressionConfig()
    if config.refine_updates and (calibration is None or calibration.encode is None):
        raise InputError("refinement needs calibration data with `encode`, to compare the layers' outputs on")
    stack = stack or stack_of(model)
    form = plan_form(stack, config, calibrated=calibration is not None)
    check_untied(model, stack.layers)
    if hasattr(stack.owner, "shared_weights") and list(stack.owner.shared_weights.parameters()):
        raise InputError(f"{type(stack.owner).__name__} owns the shared weights of other layers already; expand those first")
    for name, parameter in stack.layers.named_parameters():
        if not parameter.isfinite().all():
            raise InputError(f"{name} of the layers holds values that are no finite numbers; such a model cannot be compressed")
    if moments is None and calibration is not None:
        moments = gather(model, stack, calibration)
    weights = weighed([read_layer(layer) for layer in in_order(stack.layers)], moments)
    trained = Stack(weights, stack.symmetries if config.align else [], config.diagonal)
    if isinstance(form, SharedForm):
        fits = [trained.fit(form.plan, [list(row) for row in form.ranks.rows], ROUNDS)]
    else:
        fits = fits_within(trained, form, ROUNDS)
    fit = fits[0] if len(fits) == 1 else _least_loss(model, stack, fits, config.diagonal, calibration)

    before = matrix_parameters(stack.layers)
    dense = copied(model, stack) if config.refine_updates else None
    with _undone_on_error(stack, weights):
        shared_weights = _install(stack, fit, config.diagonal)
        if config.correct and calibration is not None and calibration.encode is not None:
            correct_if_better(model, stack, fit, calibration)
        if config.refine_updates:
            refine(dense, (model, stack), shared_weights, calibration, config.refine_updates)
        errors = [
            {name: relative_error(weights[name], weight_of(matrix)) for name, matrix in matrices(layer)}
            for layer, weights in zip(in_order(stack.layers), fit.layers)
        ]
    form = _form_of(fit, config.diagonal)
    if stack.owner is not None:
        stack.on_sharing(stack.owner, form)
    return Compressed(shared_weights, form, errors, before, matrix_parameters(stack.layers), stack.uncovered)


def _form_of(fit: Fit, diagonal: bool) -> SharedForm:
    return SharedForm(fit.plan, ResidualRanks(tuple(fit.layers[0]), tuple(map(tuple, fit.ranks))), diagonal)


def _least_loss(model: nn.Module, stack: LayerStack, fits: list[Fit], diagonal: bool, calibration: Calibration) -> Fit:
    """The fit with which the model has the least loss on the batches held out."""
    losses = []
    for fit in progress(fits, desc="comparing forms", unit="form"):
        tried, tried_stack = copied(model, stack)
        _install(tried_stack, fit, diagonal)
        losses.append(calibration.held_out_loss(tried))
    if min(losses) == math.inf:
        raise InputError("in every form that was tried the model's loss on the batches held out is no finite number")
    return fits[losses.index(min(losses))]


def plan_form(stack: LayerStack, config: CompressionConfig, calibrated: bool = False) -> SharedForm | Budget:
    """What `compress` would make of a stack, which costs nothing to know: a form, or the budget from which it is chosen.

    Without calibration data every matrix shares: errors of weights do not tell how much a form loses.

    Raises:
        InputError: as `compress` does.
    """
    if stack.is_shared:
        raise InputError("the model shares its layers already; expand it first")
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
        # all of one kind alike, so that a group's U is the plain mean, and kinds relative to their size
        for name in weights[0]:
            size = sum(layer[name].weight.square().sum() for layer in weights).item()
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
    """Give a dense stack back its modules and all values, and its owner what it had, if the block raises."""
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
                if not isinstance(linear, ResidualLinear):  # shares nothing, and is whole: it stays as it is
                    continue
                for term in filter(None.__ne__, (linear.up, linear.down, linear.diagonal)):
                    term.requires_grad_(trained[index][name])  # what is frozen stays frozen
                matrix, residual = fit.layers[index][name], fit.residuals[index][name]
                if linear.shared_weight is not None:
                    linear.shared_weight.copy_(fit.shared[fit.plan.groups[index]][name])
                if linear.rank:
                    linear.up.copy_(residual.up)
                    linear.down.copy_(residual.down)
                if diagonal:
                    linear.diagonal.copy_(residual.diagonal)
                if linear.bias is not None and matrix.input_mean is not None:
                    linear.bias.copy_(matrix.bias + fit.difference(index, name) @ matrix.input_mean)
    if stack.owner is not None:
        stack.owner.shared_weights = shared_weights
    return shared_weights
