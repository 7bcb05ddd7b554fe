import pytest
import torch
from torch import nn

from residual_st.fairseq.layers.dropout import dropout, relu_dropout_, silu_dropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("count", [400_000, 400_003])
def test_dropout_has_its_rate_and_keeps_the_mean(rate, count):
    torch.manual_seed(1)
    y = dropout(torch.ones(count), rate)
    deviation = (rate * (1 - rate) / count) ** 0.5
    assert abs((y == 0).double().mean() - rate) < 5 * deviation
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - rate)), rtol=1e-4, atol=0)


def test_elements_are_dropped_independently():
    """Neighbours, and elements that share a random word, are dropped together no more often than by chance."""
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(400_000), 0.5) == 0).double()
    for distance in (1, 2, 3, 4, 64):
        both = (dropped[:-distance] * dropped[distance:]).mean()
        assert abs(both - 0.25) < 5 * (0.25 * 0.75 / 400_000) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_gradient_flows_only_through_kept_elements(dtype):
    x = torch.randn(30, 7).to(dtype).requires_grad_()
    y = dropout(x, 0.4)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    torch.testing.assert_close(y, x * x.grad)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_relu_dropout_and_its_gradient(rate):
    x = torch.randn(50, 9, requires_grad=True)
    linear = nn.Linear(9, 5)
    y = relu_dropout_(x * 1, rate)
    assert (y >= 0).all()
    assert (y[x <= 0] == 0).all()
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / (1 - rate), rtol=1e-4, atol=0)
    expected = (linear.weight.sum(0) * kept) / (1 - rate)
    linear(y).sum().backward()
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-6)
    if rate:
        assert (x[~kept] > 0).any()


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_silu_dropout_and_its_gradient(rate):
    x = torch.randn(50, 9, dtype=torch.float64, requires_grad=True)
    linear = nn.Linear(9, 5, dtype=torch.float64)
    y = silu_dropout(x * 1, rate)
    kept = y != 0
    silu = nn.functional.silu(x)
    torch.testing.assert_close(y[kept], silu[kept] / (1 - rate), rtol=1e-4, atol=0)
    (expected,) = torch.autograd.grad((silu * linear.weight.detach().sum(0) * kept).sum() / (1 - rate), x)
    linear(y).sum().backward()
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-6)
    assert kept.all() != bool(rate)
    with torch.no_grad():
        torch.testing.assert_close(silu_dropout(x.clone(), 0.0), silu)


@pytest.mark.parametrize("function", [dropout, relu_dropout_, silu_dropout])
def test_rate_one_drops_everything(function):
    assert not function(torch.ones(20), 1.0).any()


def test_rate_zero_is_the_identity_and_seeds_are_reproducible():
    x = torch.randn(20)
    assert dropout(x, 0.0) is x
    torch.manual_seed(3)
    first = dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x, 0.5))
