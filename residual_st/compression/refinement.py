"""Stage 5: all terms of all layers together, by gradient, so that each layer's output comes closer to the dense one's.

No labels are used, and no loss but the distance of the encoder's states. Everything of the layers that is not shared moves too:
biases and norms.
"""

from itertools import cycle, islice

import torch
from torch import Tensor, nn

from residual_st.compression.moments import Calibration
from residual_st.progress import progress
from residual_st.sharing import SharedWeights
from residual_st.stacks import LayerStack, recorded_calls

LEARNING_RATE = 2e-3
WARM_UP = 10  # updates
LAST = 1.0  # weight of the last layer's output, which the decoder reads, beside the mean over all layers


def refine(
    dense: tuple[nn.Module, LayerStack],
    shared: tuple[nn.Module, LayerStack],
    shared_weights: SharedWeights,
    calibration: Calibration,
    updates: int,
) -> None:
    """Move the layers of `shared`, and the weights they share, by Adam towards the states of the layers of `dense`. In place.

    Args:
        dense, shared: a model and the stack inside it.
        shared_weights: the owner of the latter's U.
        calibration: batches, which are gone through in turn, again and again, and `encode`.
        updates: steps.
    """
    (teacher, teacher_stack), (model, stack) = dense, shared
    terms = [*dict.fromkeys([*stack.layers.parameters(), *shared_weights.parameters()])]
    optimizer = torch.optim.Adam(terms, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / WARM_UP) * (1 - step / updates))
    modes = [(module, module.training) for module in (teacher, model)]
    teacher.eval()
    model.eval()
    with progress(islice(cycle(calibration.batches), updates), total=updates, desc="refining", unit="update") as bar:
        for batch in bar:
            with torch.no_grad():
                wanted = _states(teacher, teacher_stack, calibration, batch)
            errors = [_error(state, target) for state, target in zip(_states(model, stack, calibration, batch), wanted)]
            loss = sum(errors) / len(errors) + LAST * errors[-1]
            gradients = torch.autograd.grad(loss, terms, allow_unused=True)
            for term, gradient in zip(terms, gradients):
                term.grad = gradient
            optimizer.step()
            schedule.step()
            bar.set_postfix(error=f"{loss.item():.4f}")
    for term in terms:
        term.grad = None
    for module, training in modes:
        module.train(training)


def _states(model: nn.Module, stack: LayerStack, calibration: Calibration, batch) -> list[Tensor]:
    """The output of each layer, shape (positions that are not padding, width)."""
    with recorded_calls(stack) as calls:
        calibration.encode(model, batch)
    return [stack.real_positions(call.output, call.padding) for _, call in sorted(calls.items())]


def _error(state: Tensor, target: Tensor) -> Tensor:
    """Squared distance over the target's variance."""
    return (state - target).square().sum() / (target - target.mean(0)).square().sum()
