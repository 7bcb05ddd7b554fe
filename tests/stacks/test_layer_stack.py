"""LayerStack of models of unknown libraries."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from residual_st.compression import Calibration, CompressionConfig, compress
from residual_st.compression.moments import gather
from residual_st.errors import InputError
from residual_st.sharing import ResidualLinear, form_of, share_layers, unshare_layers
from residual_st.stacks import LayerStack, no_padding, recorded_calls, stack_of


class Layer(nn.Module):
    """A batch-first layer with a mask that is True at valid positions, called by keywords, that returns a tuple."""

    def __init__(self, width=8):
        super().__init__()
        self.mix, self.out = nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, states, there=None):
        weights = torch.ones(states.shape[:2]) if there is None else there.float()
        mean = (states * weights[..., None]).sum(1, keepdim=True) / weights.sum(1)[:, None, None]
        return states + self.out(self.mix(states + mean).tanh()), weights


class Model(nn.Module):
    def __init__(self, count=4):
        super().__init__()
        torch.manual_seed(1)
        self.blocks = nn.ModuleList(Layer() for _ in range(count))

    def forward(self, states, there=None):
        for block in self.blocks:
            states, _ = block(states=states, there=there)
        return states

    @property
    def stack(self):
        return LayerStack(self.blocks, self, padding=lambda _, given: None if given["there"] is None else ~given["there"])


STATES, THERE = torch.randn(2, 9, 8), torch.tensor([[True] * 9, [True] * 5 + [False] * 4])


def loss(model, batch):
    states, there = batch
    out = model(states, there)
    return (out if there is None else out[there]).pow(3).sum()


def test_moments_of_a_padded_batch_equal_those_of_its_utterances():
    model = Model()
    apart = [(STATES[:1].clone(), None), (STATES[1:, :5].clone(), None)]
    one, two = (gather(model, model.stack, Calibration(batches, loss)) for batches in ([(STATES, THERE)], apart))
    for moments, expected in zip(one, two):
        for name in moments:
            assert moments[name].count == expected[name].count == 14
            torch.testing.assert_close(moments[name].input_covariance, expected[name].input_covariance, rtol=1e-4, atol=1e-5)
            reference = expected[name].gradient_squares
            torch.testing.assert_close(
                moments[name].gradient_squares, reference, rtol=1e-4, atol=1e-5 * reference.abs().max().item()
            )


def test_full_rank_keeps_the_outputs_and_each_u_is_owned_once():
    model = Model()
    before = model(STATES, THERE)
    calibration = Calibration([(STATES, THERE)], loss, lambda model, batch: model(*batch))
    result = compress(model, CompressionConfig(group_size=2, rank=8), stack=model.stack, calibration=calibration)
    torch.testing.assert_close(model(STATES, THERE), before, rtol=1e-5, atol=1e-5)
    assert [name for name, _ in model.shared_weights.named_parameters()] == ["0.mix", "0.out", "1.mix", "1.out"]
    assert result.uncovered == []


def test_refinement_locates_the_stack_in_a_copy_of_the_model():
    """The loss is minimal for the dense model, and decides whether the refined weights are kept."""
    model = Model()
    expected = model(STATES, THERE).detach()

    def loss(model, batch):
        return 1 + (model(*batch) - expected)[THERE].square().sum()

    def distance(updates):
        student = Model()
        calibration = Calibration([(STATES, THERE)], loss, lambda model, batch: model(*batch))
        compress(
            student,
            CompressionConfig(group_size=4, rank=0, diagonal=False, refine_updates=updates),
            stack=student.stack,
            calibration=calibration,
        )
        return (student(STATES, THERE) - expected)[THERE].norm().item()

    assert distance(60) < 0.8 * distance(0)


def test_unshare_is_the_inverse_of_share():
    model = Model()
    model.shared_weights = share_layers(model.blocks, form_of(model.blocks, 2, rank=3))
    for _, parameter in model.named_parameters():
        nn.init.normal_(parameter)
    before = model(STATES, THERE)
    unshare_layers(model.blocks)
    del model.shared_weights
    torch.testing.assert_close(model(STATES, THERE), before)
    assert not any(isinstance(module, ResidualLinear) for module in model.modules())
    assert list(model.state_dict()) == list(Model().state_dict())


def test_inputs_and_outputs_of_calls_are_recorded():
    model = Model()
    with recorded_calls(model.stack, [1, 3]) as calls:
        out = model(STATES, THERE)
    assert list(calls) == [1, 3]
    assert torch.equal(calls[3].output, out)
    assert torch.equal(calls[1].padding, ~THERE)
    assert torch.equal(model.blocks[1](calls[1].inputs, THERE)[0], calls[1].output)


def test_hidden_states_are_distinguished_from_masks_by_parameter_names():
    model = Model()
    there, half = torch.ones(2, 9), STATES.double()

    class Wrapped(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, *arguments, **keywords):
            return self.layer(*arguments, **keywords)

    def recorded(layer, *arguments, **keywords):
        with recorded_calls(LayerStack(nn.ModuleList([layer]), padding=no_padding)) as calls:
            layer(*arguments, **keywords)
        return calls[0].inputs

    layer = model.double().blocks[0]
    assert recorded(layer, there=there, states=half) is half
    assert recorded(layer, half, there=there) is half
    assert recorded(Wrapped(layer), there=THERE, states=half) is half
    with pytest.raises(InputError, match="Wrapped is called with there, states, in which the hidden states cannot be identified"):
        recorded(Wrapped(layer), there=there, states=half)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_weights_outside_linear_layers_are_reported():
    class Convolving(Layer):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv1d(8, 8, 3)

    assert LayerStack(nn.ModuleList([Convolving(), Convolving()])).uncovered == ["convolution.weight"]


def test_torch_transformer_layers_share_only_modules_that_they_call():
    """Their queries, keys and values are one parameter outside of `nn.Linear`, and the output projection is read, not called."""
    layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(4)).eval()
    stack = LayerStack(layers)
    assert stack.uncovered == ["self_attn.in_proj_weight"]

    def run(layers, states):
        for layer in layers:
            states = layer(states)
        return states.square().sum()

    with pytest.raises(InputError, match=r"never reached self_attn.out_proj of layer 0"):
        compress(layers, CompressionConfig(group_size=2), stack=stack, calibration=Calibration([STATES], run))
    before = run(layers, STATES)
    result = compress(layers, CompressionConfig(group_size=2, rank=8), stack=stack)
    torch.testing.assert_close(run(layers, STATES), before, rtol=1e-4, atol=1e-4)
    assert result.uncovered == ["self_attn.in_proj_weight"]


def test_undescribed_mask_is_refused():
    layers = nn.ModuleList(Layer() for _ in range(2))

    def run(layers, batch):
        for layer in layers:
            batch = layer(*batch)
        return batch[0].sum()

    with pytest.raises(InputError, match="define the padding by a LayerStack"):
        gather(layers, stack_of(layers), Calibration([(STATES, THERE)], run))
    stack = LayerStack(layers, padding=lambda given, _: ~given[1][:, 1:])
    with pytest.raises(InputError, match=r"a mask of shape \(2, 8\) does not fit the inputs of mix, of shape \(2, 9, 8\)"):
        gather(layers, stack, Calibration([(STATES, THERE)], run))


def test_model_of_unknown_kind_is_refused():
    with pytest.raises(InputError, match="Model has no known stack of encoder layers"):
        compress(Model())
    with pytest.raises(InputError, match="the list of layers to share is empty"):
        LayerStack(nn.ModuleList())


def test_core_needs_no_fairseq():
    """In a process that cannot import fairseq, transformers or other packages besides torch, numpy and scipy."""
    program = """
import sys
for name in ("fairseq", "transformers", "omegaconf", "sacrebleu", "soundfile", "sentencepiece", "yaml"):
    sys.modules[name] = None
import torch
from torch import nn
import residual_st
from residual_st.compression import Calibration, CompressionConfig, compress
from residual_st.sharing import form_of, share_layers, unshare_layers
torch.manual_seed(1)
make = lambda: nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4))
run = lambda layers, x: [x := layer(x) for layer in layers][-1]
layers, x = make(), torch.randn(5, 3, 6)
before = run(layers, x)
calibration = Calibration([x], lambda layers, x: run(layers, x).square().sum(), run)
result = compress(layers, CompressionConfig(group_size=2, rank=2, refine_updates=3), calibration=calibration)
assert result.form.plan.groups == (0, 0, 1, 1)
shared = run(layers, x)
unshare_layers(layers)
torch.testing.assert_close(run(layers, x), shared)
share_layers(layers, form_of(layers, 4, rank=1))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=120)
