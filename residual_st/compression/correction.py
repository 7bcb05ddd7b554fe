"""Stage 5: the low-rank terms once more, matrix by matrix, for the inputs that each really gets.

A fit takes a matrix's inputs to be those of the dense model. In the compressed one they carry the errors of everything before it.
Here each low-rank term and bias is solved again in the order in which the layers compute, so that what a matrix returns on its own
inputs comes closest to what the dense one returns on the dense ones. Where a layer adds what its branches return to its input, the
last matrix of each makes up for the error of that sum as well. Shared matrices and diagonals stay.
"""

import contextlib
import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from residual_st.compression.fit import Fit
from residual_st.compression.layer_weights import MatrixWeights, Metric, damped, write_layer
from residual_st.compression.low_rank import low_rank
from residual_st.compression.moments import Calibration, widened, without_updates
from residual_st.errors import InputError
from residual_st.progress import progress
from residual_st.sharing import Matrix, ResidualLinear, channels_last, in_order, matrices, weight_of
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
    if not calibration.held_out_loss(model) < before:
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
    for layer, weights in zip(in_order(dense_stack.layers), fit.layers):
        write_layer(layer, weights)
    with without_updates(model), dense_stack.observing(dense_stack.layers), stack.observing(stack.layers):
        calls = [_first_call(model, stack, calibration, batch) for batch in batches]
        dense_states = [call.inputs for call in calls]
        states = list(dense_states)
        stages = _stages(stack.layers[0], calls[0], states[0])
        ends = _branch_ends(stack, calls[0], states[0])
        for index in progress(range(len(stack.layers)), desc="correcting", unit="layer"):
            dense_layer, layer = dense_stack.layers[index], stack.layers[index]
            dense_passes = [Pass(dense_layer, call, x, stages, ends) for call, x in zip(calls, dense_states)]
            linears = dict(matrices(layer))
            for names in stages:
                padding = "memory_padding" if names[0] in stack.memory_matrices else "padding"
                passes = [Pass(layer, call, x, stages, ends, last=names[0]) for call, x in zip(calls, states)]
                moments = PairedMoments()
                for call, dense_pass, until in zip(calls, dense_passes, passes):
                    seen = [channels_last(linears[names[0]], each.inputs[names[0]]) for each in (dense_pass, until)]
                    if names[0] in ends:
                        seen.append(dense_pass.streams[names[0]] - until.streams[names[0]])
                    moments.add(*(stack.real_positions(value, getattr(call, padding), names[0]) for value in seen))
                for name in names:
                    _solve(linears[name], fit.layers[index][name], moments)
            dense_states = [stack.output(dense_pass.output) for dense_pass in dense_passes]
            if names[0] in ends:  # the layer's output is then what its last matrix adds to the sum
                states = [each.streams[names[0]] + linears[names[0]](each.inputs[names[0]]) for each in passes]
            else:
                states = [stack.output(call.repeat(layer, x)) for call, x in zip(calls, states)]


class _Reached(Exception):
    """The matrix is called whose input is wanted; what comes behind is not."""


class Pass:
    """What a layer gives to its matrices on the way, up to and with the matrix `last`, or on all of it.

    Attributes:
        inputs: of the first matrix of each stage.
        streams: of the matrices that end a branch, the sum that their output is added to.
        total: that sum in the end, with the outputs of all that end a branch.
        output: what the layer returns; None where the pass ends before.
    """

    def __init__(
        self, layer: nn.Module, call: LayerCall, states: Tensor, stages: list[list[str]], ends: list[str], last: str | None = None
    ):
        self.inputs, self.streams, self.output = {}, {}, None
        self.total = states

        def enter(name: str):
            def hook(_linear, arguments):
                self.inputs[name] = arguments[0]
                if name in ends:
                    self.streams[name] = self.total
                if name == last:
                    raise _Reached

            return hook

        def leave(_linear, _arguments, output):
            alike = output.shape == self.total.shape  # otherwise no sum of theirs is the layer's output
            self.total = self.total + output if alike else torch.full_like(self.total, torch.nan)

        with contextlib.ExitStack() as hooks:
            hooks.enter_context(contextlib.suppress(_Reached))
            for names in stages:
                hooks.callback(layer.get_submodule(names[0]).register_forward_pre_hook(enter(names[0])).remove)
            for name in ends:
                hooks.callback(layer.get_submodule(name).register_forward_hook(leave).remove)
            self.output = call.repeat(layer, states)


class PairedMoments:
    """Sums over positions of what goes into a dense matrix and into the compressed one, in float64.

    All are counted from their means in the first batch, as in `MatrixMoments`.
    """

    def __init__(self):
        self.count = 0

    def add(self, dense: Tensor, inputs: Tensor, drift: Tensor | None = None) -> None:
        """`dense` and `inputs` (positions, in); `drift` (positions, out), what the stream that the output is added to lacks."""
        values = [widened(value) for value in ([inputs, dense] if drift is None else [inputs, dense, drift])]
        if not self.count:
            self._origins = [value.mean(0) for value in values]
            self._sums = [torch.zeros(value.shape[1], dtype=torch.float64) for value in values]
            self._products = [torch.zeros(value.shape[1], values[0].shape[1], dtype=torch.float64) for value in values]
        values = [value - origin for value, origin in zip(values, self._origins)]
        self.count += len(values[0])
        for value, total, product in zip(values, self._sums, self._products):
            total += value.sum(0, dtype=torch.float64).cpu()
            product += (value.T @ values[0]).cpu()

    @property
    def means(self) -> list[Tensor]:
        """Of the inputs, the dense inputs and, where it was given, the drift."""
        return [origin.cpu().double() + total / self.count for origin, total in zip(self._origins, self._sums)]

    @property
    def covariances(self) -> list[Tensor]:
        """Of these with the inputs, (in or out, in)."""
        sums = self._sums
        return [product / self.count - torch.outer(total, sums[0]) / self.count**2 for product, total in zip(self._products, sums)]


def _solve(matrix: Matrix, dense: MatrixWeights, moments: PairedMoments) -> None:
    covariance, cross_covariance, *drift = moments.covariances
    mean, dense_mean, *drift_mean = moments.means
    inputs = damped(covariance)
    # least squares, drawn towards the dense weight where the inputs say little
    right = sum(drift, start=dense.weight @ (cross_covariance + inputs - covariance))
    target = torch.cholesky_solve(right.T, torch.linalg.cholesky(inputs)).T
    if not isinstance(matrix, ResidualLinear):
        weight_of(matrix).copy_(target)
    elif matrix.rank:
        rest = target - weight_of(matrix).cpu().double() + matrix.up.cpu().double() @ matrix.down.cpu().double()
        up, down = low_rank(rest, Metric(inputs, dense.metric.outputs), matrix.rank)
        matrix.up.copy_(up)
        matrix.down.copy_(down)
    if matrix.bias is not None:
        matrix.bias.copy_(sum(drift_mean, start=dense.bias + dense.weight @ dense_mean) - weight_of(matrix).cpu().double() @ mean)


def _first_call(model: nn.Module, stack: LayerStack, calibration: Calibration, batch) -> LayerCall:
    with recorded_calls(stack, [0]) as calls:
        calibration.encode(model, batch)
    if 0 not in calls:
        raise InputError("the calibration's `encode` never came to layer 0; it must run the layers of the model that it is given")
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

    with contextlib.ExitStack() as hooks:
        for name, linear in matrices(layer):
            hooks.callback(linear.register_forward_pre_hook(observe(name)).remove)
        call.repeat(layer, states)
    return stages


def _branch_ends(stack: LayerStack, call: LayerCall, states: Tensor) -> list[str]:
    """The matrices whose outputs a layer adds to its input, if its output is that sum: those that end its branches."""
    ends = [symmetry.names[-1] for symmetry in stack.symmetries]
    whole = Pass(stack.layers[0], call, states, [], ends)
    output = stack.output(whole.output)
    return ends if torch.allclose(whole.total, output, rtol=1e-3, atol=1e-3 * output.abs().mean().item()) else []
