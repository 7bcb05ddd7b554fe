"""Convolutions with kernel 1 are shared like linear layers, and restored as convolutions."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import weight_norm

from residual_st.compression import Calibration, CompressionConfig, compress
from residual_st.errors import InputError
from residual_st.sharing import (
    LowRankConv1d,
    ResidualConv1d,
    form_of,
    matrices,
    matrix_parameters,
    share_layers,
    unshare_layers,
)
from residual_st.stacks import LayerStack


class Layer(nn.Module):
    """The convolution module of a conformer, for states (batch, time, width)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(6, 16, 1)
        self.depthwise = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv1d(8, 8, 3, padding=1)
        self.second = nn.Conv1d(8, 6, 1, bias=False)
        self.out = nn.Linear(6, 6)

    def forward(self, x):
        y = nn.functional.glu(self.first(x.mT), 1)
        return x + self.out(self.second((self.depthwise(y) + self.wide(y)).relu()).mT)


def stack(count=4) -> nn.ModuleList:
    torch.manual_seed(1)
    return nn.ModuleList(Layer() for _ in range(count))


def run(layers, x):
    for layer in layers:
        x = layer(x)
    return x


X = torch.randn(3, 9, 6)


def test_only_ungrouped_convolutions_with_kernel_1_are_matrices():
    layers = stack()
    assert [name for name, _ in matrices(layers[0])] == ["first", "second", "out"]
    assert matrix_parameters(layers) == 4 * (6 * 16 + 8 * 6 + 6 * 6)
    assert LayerStack(layers).uncovered == ["depthwise.weight", "wide.weight"]
    unsupported = [nn.Conv1d(4, 4, 1, stride=2), nn.Conv1d(4, 4, 1, padding=1), nn.Conv1d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1)]
    assert not list(matrices(nn.Sequential(*unsupported)))


def test_shared_weights_are_two_dimensional_and_every_term_has_a_gradient():
    layers = stack()
    shared_weights = share_layers(layers, form_of(layers, 2, rank=2))
    assert {name: tuple(value.shape) for name, value in shared_weights["1"].items()} == {
        "first": (16, 6),
        "second": (6, 8),
        "out": (6, 6),
    }
    first = layers[3].first
    assert isinstance(first, ResidualConv1d)
    assert first.weight.shape == (16, 6, 1)
    for parameter in [*layers.parameters(), *shared_weights.parameters()]:
        nn.init.normal_(parameter)
    x = torch.randn(2, 6, 5, requires_grad=True)
    expected = nn.functional.conv1d(x, first.weight.detach(), first.bias)
    torch.testing.assert_close(first(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first(x[0]), expected[0], rtol=1e-4, atol=1e-4)
    run(layers, X).square().sum().backward()
    for layer in layers:
        assert all(term.grad.any() for term in (*layer.first.terms, *layer.second.terms, layer.first.bias))


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_sharing_takes_the_first_of_each_group_and_unsharing_restores_the_modules(group_size):
    layers, names = stack(), list(stack().state_dict())
    expected = run([layers[index // group_size * group_size] for index in range(4)], X)
    # biases and other convolutions are not shared
    for index in range(4):
        first = layers[index // group_size * group_size]
        for name in ("first.bias", "depthwise.weight", "depthwise.bias", "wide.weight", "wide.bias", "out.bias"):
            layers[index].get_parameter(name).data = first.get_parameter(name).data
    share_layers(layers, form_of(layers, group_size, rank=3))
    torch.testing.assert_close(run(layers, X), expected)
    unshare_layers(layers)
    assert list(layers.state_dict()) == names
    assert all(type(layer.second) is nn.Conv1d and layer.second.weight.shape == (6, 8, 1) for layer in layers)
    torch.testing.assert_close(run(layers, X), expected)


def test_dense_form_keeps_the_modules():
    layers = stack()
    kept = list(layers.modules())
    shared_weights = share_layers(layers, form_of(layers, 1, rank=0, diagonal=False))
    assert len(shared_weights) == 0
    assert list(layers.modules()) == kept


def test_low_rank_and_full_matrices_without_sharing():
    """A rank for each of the three matrices: the first is a low-rank product, the second is full, the last is shared."""
    layers = stack()
    second = layers[1].second
    shared_weights = share_layers(layers, form_of(layers, 4, rank=",".join(["=2/=6/0"] * 4)))
    assert isinstance(layers[1].first, LowRankConv1d)
    assert layers[1].second is second
    assert [name for name, _ in shared_weights.named_parameters()] == ["0.out"]
    assert torch.isfinite(run(layers, X)).all()


class Doubled(nn.Conv1d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layer: layer.register_module("first", Doubled(6, 16, 1)), "first of layer 1 is a Doubled, which may compute more"),
        (lambda layer: weight_norm(layer.first), "first of layer 1 has bias, weight_g, weight_v instead of weight and bias"),
        (lambda layer: layer.first.register_forward_hook(print), "first of layer 1 has the hook print, which sharing would drop"),
        (lambda layer: setattr(layer, "twin", layer.first), "twin of layer 1 and first of layer 1 are the same module"),
    ],
)
def test_unsupported_convolutions_are_refused_by_name(change, message):
    layers = stack()
    change(layers[1])
    before = copy.deepcopy(layers.state_dict())
    with pytest.raises(InputError, match=message):
        share_layers(layers, form_of(layers))
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype):
    layers = stack().to(dtype)
    shared_weights = share_layers(layers, form_of(layers, 2, rank=2))
    assert {value.dtype for value in [*layers.parameters(), *shared_weights.parameters()]} == {dtype}
    assert run(layers, X.to(dtype)).dtype == dtype


@pytest.mark.parametrize("calibrated", [False, True])
def test_compression_at_full_rank_is_the_identity(calibrated):
    layers = stack()
    before = run(layers, X)
    calibration = Calibration([X, X + 1], lambda layers, x: run(layers, x).square().sum(), run) if calibrated else None
    result = compress(layers, CompressionConfig(group_size=2, rank=6), calibration=calibration)
    torch.testing.assert_close(run(layers, X), before, rtol=1e-4, atol=1e-5)
    assert result.uncovered == ["depthwise.weight", "wide.weight"]
    unshare_layers(layers)
    torch.testing.assert_close(run(layers, X), before, rtol=1e-4, atol=1e-5)


def test_failed_compression_is_undone():
    layers = stack()
    modules, before = list(layers.modules()), copy.deepcopy(layers.state_dict())

    def fail(layers, x):
        if isinstance(layers[0].first, ResidualConv1d):
            raise RuntimeError("no more")
        return run(layers, x)

    with pytest.raises(RuntimeError, match="no more"):
        compress(
            layers,
            CompressionConfig(rank=1),
            calibration=Calibration([X, X], lambda layers, x: fail(layers, x).square().sum(), fail),
        )
    assert list(layers.modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())
