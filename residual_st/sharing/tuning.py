"""Measure on one machine what `residual_st.sharing.product` decides by a fixed rule.

Nothing calls this by itself. A tuned model may round differently from one that is tuned at another moment, because the two ways
to multiply add in another order.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.functional import linear

from residual_st.sharing.linear import ResidualLinear
from residual_st.sharing.product import compose, factor_by_factor

_POSITIONS, _MEMBERS, _REPEATS = 256, 6, 7  # at which, for how many layers in turn and how often it is measured


@torch.no_grad()
def tune_products(module: nn.Module) -> dict[tuple[int, int, int], float]:
    """Measure from how many positions on composing W pays, and set it as `compose_from` of the module's shared matrices.

    Call it once the model is prepared for inference, on an idle machine, with the number of threads that it will have: matrices in
    float32 on a CPU are measured, some hundredths of a second for each shape and rank. It is the time to compose, over the time
    that each position takes longer factor by factor than with a composed weight.

    Returns:
        The positions by (out, in, rank).
    """
    by_shape = {}
    for linear_ in module.modules():
        if isinstance(linear_, ResidualLinear) and linear_.shared_weight is not None and linear_.rank:
            weight = linear_.shared_weight
            if weight.device.type == "cpu" and weight.dtype == torch.float32:
                by_shape.setdefault((*weight.shape, linear_.rank), []).append(linear_)
    crossings = {shape: _crossing(linears[:_MEMBERS]) for shape, linears in by_shape.items()}
    for shape, linears in by_shape.items():
        for linear_ in linears:
            linear_.compose_from = crossings[shape]
    return crossings


def _crossing(linears: list[ResidualLinear]) -> float:
    """Positions from which on composing takes less time. Layers take turns, so that caches hold no more of them than in a model."""
    out_features, in_features = linears[0].shared_weight.shape
    x = torch.randn(_POSITIONS, in_features)
    bias = x.new_zeros(out_features)
    terms = [each.all_terms for each in linears]
    compose_time = _least_seconds([partial(compose, *each) for each in terms])
    factors_time = _least_seconds([partial(factor_by_factor, x, bias, *each) for each in terms])
    linear_time = _least_seconds([partial(linear, x, shared, bias) for shared, *_ in terms])
    return _POSITIONS * compose_time / max(factors_time - linear_time, 1e-9)


def _least_seconds(functions: list[Callable[[], object]]) -> float:
    """What one call takes of functions that are called in turn, in the fastest of several rounds: other processes only slow it."""
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        for function in functions:
            function()
        times.append(time.perf_counter() - start)
    return min(times) / len(functions)
