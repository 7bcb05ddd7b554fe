"""Choosing a form for a parameter budget: the group size, which kinds of matrices share, and the ranks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from residual_st.compression.allocation import Spectrum, allocate, lowest_price, price_within
from residual_st.compression.fit import Fit, Ranks, Stack
from residual_st.errors import InputError
from residual_st.sharing.plan import SharingPlan
from residual_st.sharing.ranks import Alone

SURVEY_ROUNDS = 4  # rounds of factorization for comparing group sizes
# a plan is not tried if its predicted loss is above HOPELESS times the loss predicted without sharing
HOPELESS = 1.5
HOPELESS_AT_FIRST = 2.9  # the same limit for predictions from plain means, which are 1.8 to 2.4 times those of a quick fit
ENOUGH_HOPELESS = 2  # number of such plans after which no more are tried
ALLOCATIONS = 2  # allocations of ranks, each from the factors of the last


class BudgetTooSmallError(InputError):
    """The budget is smaller than the smallest form."""


@dataclass(frozen=True)
class Budget:
    """The parameter budget of a stack's matrices.

    Attributes:
        plans: sharing plans to choose from.
        parameters: number of parameters of shared matrices and low-rank terms together, without diagonals.
        sharing_only: whether every matrix must share.
    """

    plans: list[SharingPlan]
    parameters: int
    sharing_only: bool


def budget_of(
    shapes: list[tuple[int, int]],
    count: int,
    diagonal: bool,
    weight_fraction: float,
    group_size: int | None,
    pattern: str,
    sharing_only: bool,
) -> Budget:
    """The budget for a fraction of the dense weights, with the plans of all group sizes that fit it, or of the given one.

    Args:
        shapes: shapes of the matrices of a layer; there are `count` layers.

    Raises:
        BudgetTooSmallError: if the smallest form is larger than the budget.
        InputError: if the group size is invalid.
    """
    if sharing_only and group_size is None and count == 1:
        raise InputError("a single layer cannot share: give calibration data with the weight fraction, or a rank such as =16")
    layer_size = sum(rows * columns for rows, columns in shapes)
    diagonals = count * sum(map(min, shapes)) if diagonal else 0
    parameters = int(weight_fraction * layer_size * count) - diagonals
    sizes = range(2, count + 1) if group_size is None else [group_size]
    plans = list(dict.fromkeys(SharingPlan.make(count, size, pattern) for size in sizes))  # some sizes give the same plan
    least = min((plan.n_groups * layer_size for plan in plans), default=math.inf)
    if not sharing_only:  # products of rank 1
        least = min(least, count * sum(map(sum, shapes)))
    if least > parameters:
        smallest = math.ceil(1000 * (least + diagonals) / (layer_size * count)) / 1000
        at_size = f" at group size {group_size}" if group_size else ""
        raise BudgetTooSmallError(
            f"weight fraction {weight_fraction:g} is too small for these layers{at_size}; the smallest form has {smallest:.3f}"
        )
    return Budget([plan for plan in plans if plan.n_groups * layer_size <= parameters], parameters, sharing_only)


def fits_within(stack: Stack, budget: Budget, rounds: int) -> list[Fit]:
    """Up to three fits that fill a budget: everything shares, with the plan of least predicted loss; unless `sharing_only`, also
    nothing shares, and only those kinds of matrices share for which a quick fit predicts less loss.

    Predicted losses are comparable only within one of these three classes, so the caller measures which fit is best. Fits with
    sharing are left out if their predicted loss is far above that without sharing.
    """
    if budget.sharing_only and len(budget.plans) == 1:
        return [_fit_plan(stack, budget.plans[0], [True] * len(stack.shapes), [], budget.parameters, rounds)]
    alone = [] if budget.sharing_only else _by_kind(stack, stack.spectra_alone())
    loss_alone = _loss_alone(alone, budget.parameters) if alone else math.inf
    limit = HOPELESS * loss_alone
    shared, partly = {}, {}  # (plan, which kinds share) -> predicted error
    hopeless = 0
    for plan in reversed(budget.plans):  # largest groups first
        if hopeless == ENOUGH_HOPELESS:
            break
        if alone and _rough_loss(stack, plan, budget.parameters) > HOPELESS_AT_FIRST * loss_alone:
            hopeless += 1
            continue
        spectra = _by_kind(stack, _fit_equal_ranks(stack, plan, budget.parameters).spectra())
        error, kinds = _share_where_it_pays(stack, plan, spectra, [], budget.parameters)
        if error < limit:
            shared[plan, kinds] = error
        if alone:
            error, kinds = _share_where_it_pays(stack, plan, spectra, alone, budget.parameters)
            if any(kinds):
                partly[plan, kinds] = error
            elif (plan, (True,) * len(kinds)) not in shared:
                hopeless += 1
    chosen = [min(forms, key=lambda form: forms[form]) for forms in (shared, partly) if forms]
    if alone:
        chosen.append((SharingPlan.make(len(stack.layers), 1), (False,) * len(stack.shapes)))
    return [_fit_plan(stack, plan, kinds, alone, budget.parameters, rounds) for plan, kinds in dict.fromkeys(chosen)]


def _rough_loss(stack: Stack, plan: SharingPlan, parameters: int) -> float:
    """Predicted loss if everything shares, for a small part of the time and memory of a quick fit."""
    return _share_where_it_pays(stack, plan, _by_kind(stack, stack.spectra_beside_means(plan)), [], parameters)[0]


def _loss_alone(alone: "Kinds", parameters: int) -> float:
    spectra = [spectrum for kind in alone for spectrum in kind]
    price = price_within(spectra, parameters)
    return sum(spectrum.at(price).error for spectrum in spectra)


Kinds = list[list[Spectrum]]  # for each matrix of a layer, the spectra of all layers


def _share_where_it_pays(
    stack: Stack, plan: SharingPlan, shared: Kinds, alone: Kinds, parameters: int
) -> tuple[float, tuple[bool, ...]]:
    """The error if each kind of matrix has its better form at one price per parameter, and which kinds share.

    `alone` is empty if all must share.
    """

    def kinds_at(price: float) -> list[tuple[float, int, float, bool]]:
        """For each kind: error + price, parameters, error, whether it shares."""
        kinds = []
        for kind, (rows, columns) in enumerate(stack.shapes):
            forms = [(shared[kind], plan.n_groups * rows * columns, True)]
            if alone:
                forms.append((alone[kind], 0, False))
            outcomes = []
            for spectra, owned, shares in forms:
                choices = [spectrum.at(price) for spectrum in spectra]
                taken, error = owned + sum(choice.parameters for choice in choices), sum(choice.error for choice in choices)
                outcomes.append((error + price * taken, taken, error, shares))
            kinds.append(min(outcomes))
        return kinds

    price = lowest_price(lambda price: sum(taken for _, taken, _, _ in kinds_at(price)), parameters)
    chosen = kinds_at(price)
    return sum(error for _, _, error, _ in chosen), tuple(shares for *_, shares in chosen)


def _fit_plan(stack: Stack, plan: SharingPlan, sharing: Sequence[bool], alone: Kinds, parameters: int, rounds: int) -> Fit:
    if not any(sharing):
        plan = SharingPlan.make(len(stack.layers), 1)
        return stack.fit(plan, _ranks(stack, alone, sharing, parameters), rounds)
    owned = plan.n_groups * sum(rows * columns for (rows, columns), shares in zip(stack.shapes, sharing) if shares)
    fit = _fit_equal_ranks(stack, plan, parameters, rounds)
    for _ in range(ALLOCATIONS):
        shared = _by_kind(stack, fit.spectra())
        kinds = [shared[kind] if shares else alone[kind] for kind, shares in enumerate(sharing)]
        fit = stack.fit(plan, _ranks(stack, kinds, sharing, parameters - owned), rounds, fit.layers)
    return fit


def _ranks(stack: Stack, kinds: Kinds, sharing: Sequence[bool], parameters: int) -> Ranks:
    """The best ranks for the parameters remaining besides U."""
    chosen = iter(allocate([spectrum for spectra in kinds for spectrum in spectra], parameters))
    by_kind = [[next(chosen) if shares else Alone(next(chosen)) for _ in stack.layers] for shares in sharing]
    return [list(row) for row in zip(*by_kind)]


def _by_kind(stack: Stack, spectra: list[Spectrum]) -> Kinds:
    count = len(stack.shapes)
    return [spectra[kind::count] for kind in range(count)]


def _fit_equal_ranks(stack: Stack, plan: SharingPlan, parameters: int, rounds: int = SURVEY_ROUNDS) -> Fit:
    """All sharing."""
    count, shapes = len(stack.layers), stack.shapes
    left = parameters - plan.n_groups * sum(rows * columns for rows, columns in shapes)
    equal = min(left // (count * sum(map(sum, shapes))), min(map(min, shapes)))
    return stack.fit(plan, [[equal] * len(shapes)] * count, rounds)
