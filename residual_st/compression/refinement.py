"""Stage 6: all terms of all layers together, by gradient, so that the model computes what the dense one does.

No labels are used: the layers' outputs, and the words behind them where `Calibration.predict` gives them, are brought closer to
those of the dense model. Everything of the layers that is not shared moves too: biases and norms. The compressed model computes in
bfloat16 where the device multiplies in it, its terms stay in float32.
"""

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor, nn

from residual_st.compression.bfloat16 import in_bfloat16
from residual_st.compression.moments import Calibration, evaluating, requiring_gradients
from residual_st.compression.sums import widened
from residual_st.compression.targets import LayerTarget, Model, Targets, WordsTarget, computed
from residual_st.progress import progress
from residual_st.sharing import SharedWeights
from residual_st.stacks import layer_map

LEARNING_RATES = (2e-3, 8e-4, 3e-4, 1.2e-4, 5e-5)  # of which one is chosen by trials ...
TRIAL = 20  # ... of so many updates, and no more than a tenth of all, in which it falls to 0
WON = 0.5  # the highest is taken that lowers the loss by this share of what the best does: in few updates lower ones win more
WARM_UP = 10  # updates, and no more than a quarter of all
LARGEST_NORM = 1.0  # of a step's gradient
LAST = 1.0  # weight of the last layer's output, which the decoder reads, beside the mean over all layers
CHECKS = 4  # of the loss on the batches held out


@torch.inference_mode(False)
@torch.enable_grad()
def refine(dense: Model, compressed: Model, shared_weights: SharedWeights, calibration: Calibration, updates: int) -> None:
    """Move the compressed layers, and the weights they share, by Adam towards what the dense model computes. In place.

    In the end they are what they were at the check, the start included, at which the loss on the batches held out was least.

    Args:
        dense, compressed: a model and the stack inside it. The latter may have fewer layers, which are compared at equal depth.
        shared_weights: the owner of the latter's U.
        calibration: batches, which are gone through in turn, again and again, and `encode` or `predict`.
        updates: steps.
    """
    moved = nn.ModuleList([compressed[1].layers, shared_weights])
    start = best = copy.deepcopy(moved.state_dict())
    try:
        with contextlib.ExitStack() as context:
            context.enter_context(evaluating(dense[0], compressed[0]))
            context.enter_context(requiring_gradients(compressed[0], False))  # the decoder needs none
            context.enter_context(requiring_gradients(moved, True))
            folder = context.enter_context(tempfile.TemporaryDirectory())
            targets = Targets(dense, calibration, Path(folder))
            best = _best_state(targets, compressed, moved, start, calibration, updates)
    finally:
        moved.load_state_dict(best)


def _best_state(targets: Targets, compressed: Model, moved: nn.Module, start: dict, calibration: Calibration, updates: int) -> dict:
    """Take all steps from the state `start`. What the layers were where the loss on the batches held out was least."""
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
    with progress(steps, total=updates, desc=f"refining at {rate:g}", unit="update") as bar:
        for step, error in enumerate(bar, 1):
            bar.set_postfix(error=f"{error:.4f}")
            if step in checks and (held_out := calibration.held_out_loss(compressed[0])) < best[0]:
                best = held_out, copy.deepcopy(moved.state_dict())
    return best[1]


def _chosen_rate(rates: Iterable[float], won: Callable[[float], float]) -> float:
    """Of rates, the highest first, one that wins `WON` of the best trial's. Trials end where a lower rate wins less."""
    trials = {}
    for rate in rates:
        trials[rate] = won(rate)
        if trials[rate] < max(trials.values()) and max(trials.values()) > 0:
            break
    most = max(trials.values())
    return next(rate for rate in trials if trials[rate] >= WON * most) if most > 0 else rate


def _steps(targets: Targets, compressed: Model, moved: nn.Module, calibration: Calibration, rate: float, updates: int):
    """Take the steps, and yield the distance before each. Terms in half precision are moved in float32 and rounded after each."""
    terms = [*dict.fromkeys(moved.parameters())]
    wide = [widened(term.detach()) for term in terms]  # which are the terms themselves where these are wide
    optimizer = torch.optim.Adam(wide, lr=rate)
    is_half = any(term.dtype == torch.float16 for term in terms)
    scaler = torch.amp.GradScaler(terms[0].device.type, init_scale=1024, enabled=is_half)
    warm_up = min(WARM_UP, max(1, updates // 4))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / warm_up) * (1 - step / updates))
    for number, batch in islice(cycle(enumerate([*calibration.parts[0], *calibration.more])), updates):
        wanted = targets.of(number, batch)
        with in_bfloat16(terms):
            layers, scores = computed(*compressed, calibration, batch)
        distance = _distance(layers, scores, wanted)
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


def _distance(layers: list[Tensor], scores: Tensor | None, wanted: tuple[list[LayerTarget], WordsTarget | None]) -> Tensor:
    pairs = layer_map(len(layers), len(wanted[0]))
    errors = [wanted[0][other].error(layers[layer]) for layer, other in pairs]
    distance = sum(errors) / len(errors) + LAST * errors[-1]
    return distance if wanted[1] is None else distance + wanted[1].divergence(scores)
