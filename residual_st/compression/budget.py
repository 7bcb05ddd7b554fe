"""Choosing the group size and the ranks for a budget of parameters."""

import math

from residual_st.compression.allocation import allocate
from residual_st.compression.fit import Fit, Stack
from residual_st.errors import InputError
from residual_st.sharing.plan import SharingPlan

SURVEY_ROUNDS = 4  # of factorization where group sizes are only compared
ALLOCATIONS = 2  # of the ranks, each from the factors of the one before


def plans_within(
    shapes: list[tuple[int, int]], count: int, diagonal: bool, weight_fraction: float, group_size: int | None, pattern: str
) -> dict[SharingPlan, int]:
    """Plan -> parameters left for low-rank residuals, for every group size that leaves room, or for the one given.

    Args:
        shapes: of the matrices of each of `count` layers.

    Raises:
        InputError: if even the smallest is larger than the budget.
    """
    layer_size = sum(rows * columns for rows, columns in shapes)
    diagonals = count * sum(map(min, shapes)) if diagonal else 0
    sizes = range(2, count + 1) if group_size is None else [group_size]
    plans = dict.fromkeys(SharingPlan.make(count, size, pattern) for size in sizes)  # some sizes come to the same plan
    fixed = {plan: plan.n_groups * layer_size + diagonals for plan in plans}
    budget = int(weight_fraction * layer_size * count)
    left = {plan: budget - size for plan, size in fixed.items() if size <= budget}
    if not left:
        smallest = math.ceil(1000 * min(fixed.values()) / (layer_size * count)) / 1000
        at_size = f" at group size {group_size}" if group_size else ""
        raise InputError(
            f"weight fraction {weight_fraction:g} cannot be met: the smallest of these layers{at_size} is {smallest:.3f}"
        )
    return left


def fit_budget(stack: Stack, left: dict[SharingPlan, int], rounds: int) -> Fit:
    """The fit that loses least among plans, each with the parameters that `plans_within` leaves for its residuals.

    Where there are several they are surveyed first, and the best is fitted in full.
    """
    best = next(iter(left))
    if len(left) > 1:
        errors = {plan: _survey(stack, plan, room) for plan, room in left.items()}
        best = min(errors, key=errors.get)
    fit = _fit_equal_ranks(stack, best, left[best], rounds)
    for _ in range(ALLOCATIONS):
        chosen = iter(allocate(fit.spectra(), left[best]))
        fit = stack.fit(best, [[next(chosen) for _ in stack.shapes] for _ in stack.layers], rounds, fit.layers)
    return fit


def _survey(stack: Stack, plan: SharingPlan, budget: int) -> float:
    """The error that would be left with the best ranks, as a quick fit with equal ones foretells it."""
    spectra = _fit_equal_ranks(stack, plan, budget, SURVEY_ROUNDS).spectra()
    return sum(spectrum.energies[rank:].sum().item() for spectrum, rank in zip(spectra, allocate(spectra, budget)))


def _fit_equal_ranks(stack: Stack, plan: SharingPlan, budget: int, rounds: int) -> Fit:
    count, shapes = len(stack.layers), stack.shapes
    equal = min(budget // (count * sum(map(sum, shapes))), min(map(min, shapes)))
    return stack.fit(plan, [[equal] * len(shapes)] * count, rounds)
