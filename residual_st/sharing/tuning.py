"""Measure, on one machine, the threshold that `residual_st.sharing.product` sets by a fixed rule.

Nothing calls this automatically. A tuned model may round differently from one tuned at another time, because the two ways of
multiplying add in different orders.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.functional import linear

from residual_st.sharing.linear import ResidualLinear
from residual_st.sharing.product import compose, factor_by_factor

_POSITIONS, _MEMBERS, _REPEATS = 256, 6, 7  # positions, layers in turn, and repeats of a measurement


@torch.no_grad()
def tune_products(module: nn.Module) -> dict[tuple[int, int, int], float]:
    """Measure the number of positions from which composing W is faster, and set it as `compose_from` of shared matrices.

    Call it after preparing the model for inference, on an idle machine, with the number of threads used later. Only float32
    matrices on a CPU are measured, in some hundredths of a second per shape and rank. The number is the time for composing / the
    additional time per position of multiplying by each factor.

    Returns:
        The positions by (out, in, rank).
    """
    by_shape: dict[tuple[int, int, int], list[ResidualLinear]] = {}
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
    """Positions from which composing is faster. Layers are measured in turn, so that caches contain no more than in a model."""
    x = torch.randn(_POSITIONS, linears[0].in_features)
    bias = x.new_zeros(linears[0].out_features)
    all_terms = (each.all_terms for each in linears)
    terms = [(shared, up, down, diagonal) for shared, up, down, diagonal in all_terms if shared is not None]
    compose_time = _least_seconds([partial(compose, *each) for each in terms])
    factors_time = _least_seconds([partial(factor_by_factor, x, bias, *each) for each in terms])
    linear_time = _least_seconds([partial(linear, x, shared, bias) for shared, *_ in terms])
    return _POSITIONS * compose_time / max(factors_time - linear_time, 1e-9)


def _least_seconds(functions: list[Callable[[], object]]) -> float:
    """Seconds per call of functions that are called in turn, in the fastest round: other processes only slow them down."""
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        for function in functions:
            function()
        times.append(time.perf_counter() - start)
    return min(times) / len(functions)
