"""Search for the smallest form within a limit of the loss."""

import contextlib
import math
from dataclasses import dataclass, replace
from typing import NoReturn

from torch import nn

from residual_st.compression.budget import BudgetTooSmallError
from residual_st.compression.config import CompressionConfig, refuse_keywords
from residual_st.compression.moments import Calibration, gather
from residual_st.compression.pipeline import Compressed, compress, plan_form
from residual_st.errors import InputError
from residual_st.numbers import is_real
from residual_st.progress import progress
from residual_st.stacks import LayerStack, copied, stack_of

PROBES = 6  # number of sizes tried; each halves the interval
LARGEST = 0.97  # of the dense weights: a larger form is not worth its slower inference


@dataclass(frozen=True)
class Probe:
    """A size that was tried, and its loss on the held-out batches / the dense model's loss."""

    weight_fraction: float
    loss_ratio: float


def compress_within(
    model: nn.Module,
    max_loss: float,
    calibration: Calibration,
    config: CompressionConfig | None = None,
    *,
    stack: LayerStack | None = None,
    **keywords: NoReturn,
) -> tuple[Compressed, list[Probe]]:
    """`compress` to the smallest size at which the loss rises by at most `max_loss`, in place.

    Sizes are tried by bisection without refinement, and judged by the loss on held-out batches (`Calibration.parts`). Refinement
    comes last, and can only lower the loss.

    Args:
        max_loss: maximum relative increase, 0.01 for 1 %.
        config: settings of `compress`, without `rank` and `weight_fraction`: the size is chosen here.

    Raises:
        InputError: if the loss rises by more even with `LARGEST` of the weights; see also `compress`.
    """
    refuse_keywords("compress_within", keywords)
    if not is_real(max_loss) or max_loss < 0:
        raise InputError(f"max_loss {max_loss!r} must be a number of at least 0, such as 0.01 for 1 %")
    config = config or CompressionConfig()
    if chosen := [name for name in ("rank", "weight_fraction") if getattr(config, name) is not None]:
        raise InputError(f"{chosen[0]} cannot be combined with a maximum loss, which chooses the size")
    if not isinstance(calibration, Calibration):
        raise InputError("a maximum loss needs calibration data, to measure the loss")
    stack = stack or stack_of(model)
    with contextlib.suppress(BudgetTooSmallError):  # refuses stacks that cannot be shared before any calibration
        plan_form(stack, replace(config, weight_fraction=LARGEST), calibrated=True)
    moments = gather(model, stack, calibration)
    dense_loss = calibration.held_out_loss(model)
    if not 0 < dense_loss < math.inf:
        raise InputError(
            f"the dense model's loss on the held-out batches is {dense_loss:g}; it must be above 0 for a relative limit"
        )
    probes: list[Probe] = []

    def fits(fraction: float) -> bool:
        tried, tried_stack = copied(model, stack)
        unrefined = replace(config, weight_fraction=fraction, refine_updates=0)
        try:
            compress(tried, unrefined, stack=tried_stack, calibration=calibration, moments=moments)
        except BudgetTooSmallError:
            return False
        probes.append(Probe(fraction, calibration.held_out_loss(tried) / dense_loss))
        return probes[-1].loss_ratio <= 1 + max_loss

    if not fits(LARGEST):
        reached = f"by {probes[-1].loss_ratio - 1:.1%}" if probes else "too far"
        raise InputError(f"the loss rises {reached} even with {LARGEST:.0%} of the weights; the limit is {max_loss:.1%}")
    low, high = 0.0, LARGEST
    for _ in progress(range(PROBES), desc="trying sizes", unit="size"):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    result = compress(model, replace(config, weight_fraction=high), stack=stack, calibration=calibration, moments=moments)
    return result, probes
