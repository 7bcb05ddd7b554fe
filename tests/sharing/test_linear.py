import pytest
import torch
from torch import nn

from residual_st.sharing import ResidualLinear, residual_energies


def make(out_features, in_features, rank=2, diagonal=True, bias=True):
    torch.manual_seed(1)
    owner = nn.ParameterDict({"w": nn.Parameter(torch.randn(out_features, in_features, dtype=torch.float64))})
    bias = nn.Parameter(torch.randn(out_features, dtype=torch.float64)) if bias else None
    return ResidualLinear(owner, "w", bias, rank, diagonal), owner


@pytest.mark.parametrize(("out_features", "in_features"), [(5, 5), (4, 7), (7, 4)])
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("diagonal", [True, False])
def test_output_matches_the_equation(out_features, in_features, rank, diagonal):
    linear, owner = make(out_features, in_features, rank, diagonal)
    for parameter in linear.parameters():
        nn.init.normal_(parameter)
    residual = torch.zeros(out_features, in_features, dtype=torch.float64)
    if rank:
        residual += linear.up @ linear.down
    if diagonal:
        for index in range(min(out_features, in_features)):
            residual[index, index] += linear.diagonal[index]
    torch.testing.assert_close(linear.weight, owner["w"] + residual)
    x = torch.randn(3, 2, in_features, dtype=torch.float64)
    torch.testing.assert_close(linear(x), x @ (owner["w"] + residual).T + linear.bias)
    torch.testing.assert_close(residual_energies([linear])[0], residual.square().sum())


def test_residual_starts_at_zero_and_is_trainable():
    linear, owner = make(4, 6)
    assert torch.equal(linear.weight, owner["w"])
    linear(torch.randn(2, 6, dtype=torch.float64)).square().sum().backward()
    assert linear.up.grad.any()
    assert linear.diagonal.grad.any()
    assert owner["w"].grad.any()
    with torch.no_grad():
        linear.up -= 0.1 * linear.up.grad
    linear(torch.randn(2, 6, dtype=torch.float64)).square().sum().backward()
    assert linear.down.grad.any()


def test_shared_weight_is_not_a_parameter_of_the_layer():
    linear, owner = make(4, 6)
    assert sorted(dict(linear.named_parameters())) == ["bias", "diagonal", "down", "up"]
    owner["w"] = nn.Parameter(torch.zeros(4, 6, dtype=torch.float64))
    assert not linear.weight.any(), "the layer must use a replaced parameter"


def test_gradients_match_the_equation():
    linear, _ = make(4, 6, rank=2)
    nn.init.normal_(linear.up)
    x = torch.randn(3, 6, dtype=torch.float64)
    parameters = [linear.shared_weight, linear.up, linear.down, linear.diagonal, linear.bias]
    assert torch.autograd.gradcheck(lambda *_: linear(x), parameters)
    assert torch.autograd.gradcheck(lambda *_: residual_energies([linear]), parameters[1:4])


@pytest.mark.parametrize("shape", [(6,), (0, 6), (2, 0, 6), (2, 3, 6)])
def test_inputs_may_have_any_number_of_dimensions(shape):
    linear, _ = make(4, 6)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.linear(x, linear.weight, linear.bias)
    torch.testing.assert_close(linear(x), expected)
    (gradient,) = torch.autograd.grad(linear(x).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0])
    with torch.no_grad():
        torch.testing.assert_close(linear(x), expected)
