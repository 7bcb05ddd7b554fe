"""Stage 5: the low-rank terms once more, matrix by matrix, for the inputs that each really gets.

A fit takes a matrix's inputs to be those of the dense model. In the compressed one they carry the errors of everything before it.
Here each low-rank term and bias is solved again in the order in which the layers compute, so that what a matrix returns on its own
inputs comes closest to what the dense one returns on the dense ones. Shared matrices and diagonals stay.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from residual_st.compression.factorization import low_rank
from residual_st.compression.fit import Fit
from residual_st.compression.layer_weights import MatrixWeights, Metric, damped, write_layer
from residual_st.compression.moments import Calibration, without_updates
from residual_st.progress import progress
from residual_st.sharing import ResidualLinear, matrices
from residual_st.stacks import LayerCall, LayerStack, recorded_calls


def correct_if_better(
    dense: tuple[nn.Module, LayerStack],
    compressed: tuple[nn.Module, LayerStack],
    fit: Fit,
    calibration: Calibration,
) -> None:
    """Correct the compressed layers where that lowers the loss on batches that were not used for it, in place.

    Args:
        dense: a copy of the model from before, and its stack, whose units are renamed as the fit's are.
        compressed: the model and its stack.
        fit: what was written into its layers.
        calibration: batches, `loss` and `encode`.
    """
    if len(calibration.batches) < 2:  # nothing to judge by
        return
    model, stack = compressed
    before, state = calibration.held_out_loss(model), copy.deepcopy(stack.layers.state_dict())
    correct(dense, compressed, fit, calibration, calibration.parts[0])
    if calibration.held_out_loss(model) >= before:
        stack.layers.load_state_dict(state)


@torch.no_grad()
def correct(
    dense: tuple[nn.Module, LayerStack],
    compressed: tuple[nn.Module, LayerStack],
    fit: Fit,
    calibration: Calibration,
    batches: Sequence,
) -> None:
    """Solve the low-rank terms and biases of the compressed layers again, in place. Arguments as for `correct_if_better`."""
    (dense_model, dense_stack), (model, stack) = dense, compressed
    dense_model.eval()
    for layer, weights in zip(dense_stack.layers, fit.layers):
        write_layer(layer, weights)
    with without_updates(model), dense_stack.observing(dense_stack.layers), stack.observing(stack.layers):
        calls = [_first_call(model, stack, calibration, batch) for batch in batches]
        dense_states = [call.inputs for call in calls]
        states = list(dense_states)
        for index in progress(range(len(stack.layers)), desc="correcting", unit="layer"):
            pair = dense_stack.layers[index], stack.layers[index]
            for names in _stages(pair[1], calls[0], states[0]):
                padding = "memory_padding" if names[0] in stack.memory_matrices else "padding"
                moments = PairedMoments()
                for call, *inputs in zip(calls, dense_states, states):
                    seen = [_input_of(layer, names[0], call, x) for layer, x in zip(pair, inputs)]
                    moments.add(*(stack.real_positions(x, getattr(call, padding)) for x in seen))
                linears = dict(matrices(pair[1]))
                for name in names:
                    _solve(linears[name], fit.layers[index][name], moments)
            dense_states, states = (
                [stack.output(call.repeat(layer, x)) for call, x in zip(calls, inputs)]
                for layer, inputs in zip(pair, (dense_states, states))
            )


class PairedMoments:
    """Sums over positions of what goes into a dense matrix and into the compressed one, in float64.

    Both are counted from their means in the first batch, as in `MatrixMoments`.
    """

    def __init__(self):
        self.count = 0

    def add(self, dense: Tensor, inputs: Tensor) -> None:
        """Both (positions, in)."""
        if not self.count:
            self._origins = dense.mean(0), inputs.mean(0)
            self._sums = [torch.zeros(dense.shape[1], dtype=torch.float64) for _ in range(2)]
            self._squares, self._products = (torch.zeros(dense.shape[1], dense.shape[1], dtype=torch.float64) for _ in range(2))
        dense, inputs = dense - self._origins[0], inputs - self._origins[1]
        self.count += len(inputs)
        self._sums[0] += dense.sum(0, dtype=torch.float64).cpu()
        self._sums[1] += inputs.sum(0, dtype=torch.float64).cpu()
        self._squares += (inputs.T @ inputs).cpu()
        self._products += (dense.T @ inputs).cpu()

    @property
    def means(self) -> list[Tensor]:
        """Of the dense inputs and of the others."""
        return [origin.cpu().double() + total / self.count for origin, total in zip(self._origins, self._sums)]

    @property
    def covariance(self) -> Tensor:
        """Of the compressed model's inputs, (in, in)."""
        return self._squares / self.count - torch.outer(self._sums[1], self._sums[1]) / self.count**2

    @property
    def cross_covariance(self) -> Tensor:
        """Of the dense inputs with them, (in, in)."""
        return self._products / self.count - torch.outer(self._sums[0], self._sums[1]) / self.count**2


def _solve(linear: nn.Linear | ResidualLinear, dense: MatrixWeights, moments: PairedMoments) -> None:
    covariance = moments.covariance
    inputs = damped(covariance)
    # least squares, drawn towards the dense weight where the inputs say little
    right = dense.weight @ (moments.cross_covariance + inputs - covariance)
    target = torch.cholesky_solve(right.T, torch.linalg.cholesky(inputs)).T
    if isinstance(linear, nn.Linear):
        linear.weight.copy_(target)
    elif linear.rank:
        rest = target - linear.weight.cpu().double() + linear.up.cpu().double() @ linear.down.cpu().double()
        up, down = low_rank(rest, Metric(inputs, dense.metric.outputs), linear.rank)
        linear.up.copy_(up)
        linear.down.copy_(down)
    if linear.bias is not None:
        dense_mean, mean = moments.means
        linear.bias.copy_(dense.bias + dense.weight @ dense_mean - linear.weight.cpu().double() @ mean)


def _first_call(model: nn.Module, stack: LayerStack, calibration: Calibration, batch) -> LayerCall:
    with recorded_calls(stack, [0]) as calls:
        calibration.encode(model, batch)
    return calls[0]


def _stages(layer: nn.Module, call: LayerCall, states: Tensor) -> list[list[str]]:
    """The matrices in the order in which the layer calls them, those of one input together."""
    stages, latest = [], None

    def observe(name: str):
        def hook(_linear, arguments):
            nonlocal latest
            if arguments[0] is latest:
                stages[-1].append(name)
            else:
                stages.append([name])
            latest = arguments[0]

        return hook

    handles = [linear.register_forward_pre_hook(observe(name)) for name, linear in matrices(layer)]
    call.repeat(layer, states)
    for handle in handles:
        handle.remove()
    return stages


def _input_of(layer: nn.Module, name: str, call: LayerCall, states: Tensor) -> Tensor:
    """What the layer gives to one of its matrices."""
    seen = []
    handle = layer.get_submodule(name).register_forward_pre_hook(lambda _linear, arguments: seen.append(arguments[0]))
    call.repeat(layer, states)
    handle.remove()
    return seen[0]
