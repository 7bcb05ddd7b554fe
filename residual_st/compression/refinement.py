"""Stage 6: gradient descent on all terms of all layers together, to match the dense model's outputs.

No labels are used: the targets are the dense model's layer outputs and, with `Calibration.predict`, its word distributions. Biases
and norms of the layers are trained too. The compressed model computes in bfloat16 if the device multiplies in it; its terms stay in
float32.
"""

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from residual_st.compression.bfloat16 import in_bfloat16
from residual_st.compression.moments import Calibration, evaluating, requiring_gradients
from residual_st.compression.sums import widened
from residual_st.compression.targets import LayerTarget, Model, Targets, WordsTarget, computed
from residual_st.progress import progress
from residual_st.sharing import SharedWeights
from residual_st.stacks import layer_map

LEARNING_RATES = (2e-3, 8e-4, 3e-4, 1.2e-4, 5e-5)  # one is chosen by trials
TRIAL = 20  # updates per trial, at most a tenth of all, in which the learning rate decays to 0
# the highest learning rate is chosen that lowers the loss by at least this fraction of the best trial: short trials favour low ones
WON = 0.5
WARM_UP = 10  # updates, at most a quarter of all
LARGEST_NORM = 1.0  # gradients are clipped to this norm
LAST = 1.0  # additional weight of the last layer's output, which the decoder reads, relative to the mean over all layers
CHECKS = 4  # checks of the loss on the held-out batches

State = dict[str, Any]  # of a module


@torch.inference_mode(False)
@torch.enable_grad()
def refine(dense: Model, compressed: Model, shared_weights: SharedWeights, calibration: Calibration, updates: int) -> None:
    """Fit the compressed layers and their shared weights to the dense model with Adam, in place.

    Keeps the state of the check, or of the start, with the least loss on the held-out batches.

    Args:
        dense, compressed: each a model and the stack inside it. The compressed one may have fewer layers, which are compared at
            equal depth.
        shared_weights: the owner of the compressed model's U.
        calibration: batches, which are used repeatedly in turn, and `encode` or `predict`.
        updates: number of updates.
    """
    moved = nn.ModuleList([compressed[1].layers, shared_weights])
    start = best = copy.deepcopy(moved.state_dict())
    try:
        with contextlib.ExitStack() as context:
            context.enter_context(evaluating(dense[0], compressed[0]))
            context.enter_context(requiring_gradients(compressed[0], False))  # no gradients for the decoder's parameters
            context.enter_context(requiring_gradients(moved, True))
            folder = context.enter_context(tempfile.TemporaryDirectory())
            targets = Targets(dense, calibration, Path(folder))
            best = _best_state(targets, compressed, moved, start, calibration, updates)
    finally:
        moved.load_state_dict(best)


def _best_state(
    targets: Targets, compressed: Model, moved: nn.Module, start: State, calibration: Calibration, updates: int
) -> State:
    """Train from the state `start`. Returns the state with the least loss on the held-out batches."""
    best = calibration.held_out_loss(compressed[0]), start
    rate = LEARNING_RATES[0]
    if trial := min(TRIAL, updates // 10):

        def won(rate: float) -> float:
            for _ in _steps(targets, compressed, moved, calibration, rate, trial):
                pass
            held_out = calibration.held_out_loss(compressed[0])
            moved.load_state_dict(start)
            return best[0] - held_out

        rate = _chosen_rate(progress(LEARNING_RATES, desc="choosing a rate", unit="rate"), won)
    checks = {updates * part // CHECKS for part in range(1, CHECKS + 1)}
    steps = _steps(targets, compressed, moved, calibration, rate, updates)
    with progress(steps, total=updates, desc=f"refining at learning rate {rate:g}", unit="update") as bar:
        for step, error in enumerate(bar, 1):
            bar.set_postfix(error=f"{error:.4f}")
            if step in checks and (held_out := calibration.held_out_loss(compressed[0])) < best[0]:
                best = held_out, copy.deepcopy(moved.state_dict())
    return best[1]


def _chosen_rate(rates: Iterable[float], won: Callable[[float], float]) -> float:
    """The highest learning rate with at least `WON` of the best trial's reduction. `rates` descend; trials end at a worse one."""
    trials = {}
    for rate in rates:
        trials[rate] = won(rate)
        if trials[rate] < max(trials.values()) and max(trials.values()) > 0:
            break
    most = max(trials.values())
    return next(rate for rate in trials if trials[rate] >= WON * most) if most > 0 else rate


def _steps(
    targets: Targets, compressed: Model, moved: nn.Module, calibration: Calibration, rate: float, updates: int
) -> Iterator[float]:
    """Train, and yield the distance before each update. Terms in half precision are updated in float32 and then rounded."""
    terms = [*dict.fromkeys(moved.parameters())]
    wide = [widened(term.detach()) for term in terms]  # the terms themselves if these are in float32
    optimizer = torch.optim.Adam(wide, lr=rate)
    is_half = any(term.dtype == torch.float16 for term in terms)
    scaler = torch.amp.GradScaler(terms[0].device.type, init_scale=1024, enabled=is_half)
    warm_up = min(WARM_UP, max(1, updates // 4))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / warm_up) * (1 - step / updates))
    for number, batch in islice(cycle(enumerate([*calibration.parts[0], *calibration.more])), updates):
        target = targets.of(number, batch)
        with in_bfloat16(terms):
            layers, scores = computed(*compressed, calibration, batch)
        distance = _distance(layers, scores, target)
        gradients = torch.autograd.grad(scaler.scale(distance), terms, allow_unused=True)
        for term, gradient in zip(wide, gradients):
            term.grad = None if gradient is None else widened(gradient)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(wide, LARGEST_NORM)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        with torch.no_grad():
            for term, its_wide in zip(terms, wide):
                if term.dtype != its_wide.dtype:
                    term.copy_(its_wide)
        optimizer.zero_grad()
        yield distance.item()


def _distance(layers: list[Tensor], scores: Tensor | None, target: tuple[list[LayerTarget], WordsTarget | None]) -> Tensor:
    layer_targets, words = target
    errors = [layer_targets[other].error(layers[layer]) for layer, other in layer_map(len(layers), len(layer_targets))]
    distance = reduce(torch.add, errors) / len(errors) + LAST * errors[-1]
    return distance if words is None or scores is None else distance + words.divergence(scores)
