"""Stage 5: solve the low-rank terms again, matrix by matrix, for the actual inputs in the compressed model.

A fit assumes that a matrix gets the inputs of the dense model. In the compressed model the inputs contain the errors of all earlier
matrices. This stage solves each low-rank term and bias again, in the order of computation, so that a matrix's output on its actual
inputs is closest to the dense matrix's output on the dense inputs. If a layer adds the outputs of residual branches to its input,
the output projection of each branch (`out_proj`, `fc2`) also corrects the error of that sum. Shared matrices and diagonals do not
change.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from residual_st.compression.fit import Fit
from residual_st.compression.layer_weights import LayerWeights, MatrixWeights, Metric, damped, write_layer
from residual_st.compression.low_rank import low_rank
from residual_st.compression.moments import Calibration, without_updates
from residual_st.compression.sums import InputMoments, widened
from residual_st.errors import InputError
from residual_st.progress import progress
from residual_st.sharing import Matrix, ResidualLinear, channels_last, deep_copy, matrices, shape_of, unshare_layers, weight_of
from residual_st.stacks import LayerCall, LayerStack, recorded_calls

MOST_BATCHES = 72  # maximum; the states of all of them are in memory


def correct_if_better(model: nn.Module, stack: LayerStack, fit: Fit, calibration: Calibration) -> None:
    """Correct the compressed layers in place, and keep the correction if it lowers the loss on held-out batches.

    Args:
        model, stack: the compressed model and its stack.
        fit: the fit in its layers.
        calibration: batches, `loss` and `encode`.
    """
    if len(calibration.batches) < 2:  # no held-out batch
        return
    before, state = calibration.held_out_loss(model), copy.deepcopy(stack.layers.state_dict())
    correct(model, stack, fit, calibration, [*calibration.parts[0], *calibration.more][:MOST_BATCHES])
    if not calibration.held_out_loss(model) < before:
        stack.layers.load_state_dict(state)


@torch.no_grad()
def correct(model: nn.Module, stack: LayerStack, fit: Fit, calibration: Calibration, batches: Sequence[Any]) -> None:
    """Solve the low-rank terms and biases of the compressed layers again, in place. For the arguments see `correct_if_better`.

    Only one layer's states and one dense layer are in memory at a time.
    """
    with without_updates(model), stack.observing(stack.layers):
        calls = [_first_call(model, stack, calibration, batch) for batch in batches]
        states = dense_states = [call.inputs for call in calls]
        stages = _stages(stack.layers[0], calls[0], states[0])
        ends = _branch_ends(stack, calls[0], states[0])
        for index in progress(range(len(stack.layers)), desc="correcting", unit="layer"):
            layer, weights = stack.layers[index], fit.layers[index]
            dense = _dense(layer, weights)
            dense_passes = [Pass(dense, call, x, stages, ends) for call, x in zip(calls, dense_states)]
            dense_states = [stack.output(dense_pass.output) for dense_pass in dense_passes]
            states = _correct_layer(stack, layer, weights, calls, dense_passes, states, stages, ends)


def _dense(layer: nn.Module, weights: LayerWeights) -> nn.Module:
    """The dense layer, with its units aligned as in `weights`."""
    dense = deep_copy(layer)
    unshare_layers(nn.ModuleList([dense]))
    write_layer(dense, weights)
    return dense


def _correct_layer(
    stack: LayerStack,
    layer: nn.Module,
    weights: LayerWeights,
    calls: list[LayerCall],
    dense_passes: "list[Pass]",
    states: list[Tensor],
    stages: list[list[str]],
    ends: list[str],
) -> list[Tensor]:
    """Correct one layer, for each call's `states`. Returns its outputs for them."""
    linears = dict(matrices(layer))
    last = stages[-1][0]
    passes = []  # up to the last stage
    for names in stages:
        first = names[0]
        padding = "memory_padding" if first in stack.memory_matrices else "padding"
        outputs, inputs = shape_of(linears[first])
        moments = PairedMoments(inputs, outputs if first in ends else inputs, linears[first].weight.device)
        for call, dense_pass, x in zip(calls, dense_passes, states):
            reached = Pass(layer, call, x, stages, ends, last=first)
            reached_inputs = channels_last(linears[first], reached.inputs[first])
            if first in ends:
                target = dense_pass.sums.pop(first) - reached.total
            else:
                target = channels_last(linears[first], dense_pass.inputs.pop(first))
            moments.add(*(stack.real_positions(each, getattr(call, padding), first) for each in (reached_inputs, target)))
            if first == last and first in ends:
                passes.append(reached)
        for name in names:
            _solve(linears[name], weights[name], moments, first in ends)
    if last in ends:  # then the layer's output is that sum plus the output of its last matrix
        return [each.total + linears[last](each.inputs[last]) for each in passes]
    return [stack.output(call.repeat(layer, x)) for call, x in zip(calls, states)]


class _Reached(Exception):
    """Raised when the module is called whose input is needed, to skip the rest."""


@contextlib.contextmanager
def _stopping_at(module: nn.Module) -> Iterator[None]:
    """Leave the block when the module is called."""

    def stop(*_: object) -> NoReturn:
        raise _Reached

    handle = module.register_forward_pre_hook(stop)
    try:
        with contextlib.suppress(_Reached):
            yield
    finally:
        handle.remove()


class Pass:
    """A forward pass through a layer up to the matrix `last`, or through the whole layer.

    Attributes:
        inputs: of the matrix `last`; in a whole pass, of the first matrix of each stage, except output projections.
        total: the residual sum: the layer's input plus the outputs of the branches so far.
        sums: the residual sum after each output projection.
        output: the layer's output; None if the pass ends before.
    """

    def __init__(
        self, layer: nn.Module, call: LayerCall, states: Tensor, stages: list[list[str]], ends: list[str], last: str | None = None
    ):
        self.inputs: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.output: Any = None
        self.total = states

        def enter(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def hook(_linear: nn.Module, arguments: tuple[Any, ...]) -> None:
                if name == last or (last is None and name not in ends):
                    self.inputs[name] = arguments[0]
                if name == last:
                    raise _Reached

            return hook

        def leave(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
            def hook(_linear: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> None:
                alike = output.shape == self.total.shape  # otherwise the layer's output is not their sum
                self.total = self.sums[name] = self.total + output if alike else torch.full_like(self.total, torch.nan)

            return hook

        with contextlib.ExitStack() as hooks:
            hooks.enter_context(contextlib.suppress(_Reached))
            for names in stages:
                hooks.callback(layer.get_submodule(names[0]).register_forward_pre_hook(enter(names[0])).remove)
            for name in ends:
                hooks.callback(layer.get_submodule(name).register_forward_hook(leave(name)).remove)
            self.output = call.repeat(layer, states)


class PairedMoments:
    """Sums over positions of the inputs of a compressed matrix, and of the target: inputs or outputs of the dense matrix.

    All are relative to their means in the first batch, as in `InputMoments`.

    Args:
        inputs, targets: widths of both.
    """

    def __init__(self, inputs: int, targets: int, device: torch.device):
        self.inputs = InputMoments(inputs, device)
        self._origin = torch.zeros(targets, device=device)
        self._sum = torch.zeros_like(self._origin, dtype=torch.float64)
        self._products = torch.zeros(targets, inputs, device=device)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """`inputs` (positions, in), `targets` (positions, in or out)."""
        targets = widened(targets)
        if not self.inputs.count and len(targets):
            self._origin = targets.mean(0)
        targets = targets - self._origin
        self._sum += targets.sum(0, dtype=torch.float64)
        self._products = self._products.to(targets).addmm_(targets.T, self.inputs.add(inputs))

    @property
    def target_mean(self) -> Tensor:
        return (self._origin + self._sum / self.inputs.count).cpu()

    @property
    def cross_covariance(self) -> Tensor:
        """(in or out, in)"""
        count = self.inputs.count
        return (self._products.double() / count - torch.outer(self._sum, self.inputs.sum) / count**2).cpu()


def _solve(matrix: Matrix, dense: MatrixWeights, moments: PairedMoments, is_end: bool) -> None:
    """Solve one matrix. The target is the output of an output projection, and otherwise the dense matrix's input."""
    covariance, mean = moments.inputs.covariance, moments.inputs.mean
    regular = damped(covariance)
    metric = Metric(regular, dense.metric.outputs)
    right, output = moments.cross_covariance, moments.target_mean
    if not is_end:
        right, output = dense.weight @ right, dense.weight @ output
    # least squares, regularised towards the dense weight
    target = metric.solve_inputs(right + dense.weight @ (regular - covariance))
    if not isinstance(matrix, ResidualLinear):
        weight_of(matrix).copy_(target)
    elif matrix.up is not None and matrix.down is not None:
        rest = target - weight_of(matrix).cpu().double() + matrix.up.cpu().double() @ matrix.down.cpu().double()
        up, down = low_rank(rest, metric, matrix.rank)
        matrix.up.copy_(up)
        matrix.down.copy_(down)
    if matrix.bias is not None and dense.bias is not None:
        if not is_end:
            output = output + dense.bias
        matrix.bias.copy_(output - weight_of(matrix).cpu().double() @ mean)


def _first_call(model: nn.Module, stack: LayerStack, calibration: Calibration, batch: Any) -> LayerCall:
    with recorded_calls(stack, [0]) as calls, _stopping_at(stack.layers[0]):
        calibration.run_layers(model, batch)
    if 0 not in calls:
        raise InputError("the calibration's `encode` never ran layer 0; it must run the layers of its model argument")
    return calls[0]


def _stages(layer: nn.Module, call: LayerCall, states: Tensor) -> list[list[str]]:
    """The matrices in the order of their calls, those with the same input together."""
    stages: list[list[str]] = []
    latest: Tensor | None = None

    def observe(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_linear: nn.Module, arguments: tuple[Any, ...]) -> None:
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
    """The output projections: matrices whose outputs the layer adds to its input, if the layer's output is that sum."""
    ends = [symmetry.names[-1] for symmetry in stack.symmetries]
    whole = Pass(stack.layers[0], call, states, [], ends)
    output = stack.output(whole.output)
    return ends if torch.allclose(whole.total, output, rtol=1e-3, atol=1e-3 * output.abs().mean().item()) else []
