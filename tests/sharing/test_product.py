import itertools

import pytest
import torch
from torch import nn

from residual_st.sharing import ResidualLinear, transpose_storage_
from residual_st.sharing.product import (
    compose,
    composing_pays,
    factor_by_factor,
    positions_to_compose,
    product,
)

SHAPES = [(6, 6), (4, 7), (7, 4)]


def terms(out_features, in_features, rank, diagonal, dtype=torch.float64):
    torch.manual_seed(1)
    shapes = {"shared": (out_features, in_features)}
    if rank:
        shapes |= {"up": (out_features, rank), "down": (rank, in_features)}
    if diagonal:
        shapes["diagonal"] = (min(out_features, in_features),)
    made = {name: torch.randn(shape, dtype=dtype, requires_grad=True) for name, shape in shapes.items()}
    return [made.get(name) for name in ("shared", "up", "down", "diagonal")]


def by_the_equation(x, bias, shared, up, down, diagonal):
    weight = shared
    if up is not None:
        weight = weight + up @ down
    if diagonal is not None:
        rows, columns = shared.shape
        weight = weight + torch.eye(rows, columns, dtype=shared.dtype) * nn.functional.pad(diagonal, (0, columns - len(diagonal)))
    y = x @ weight.T
    return y if bias is None else y + bias


@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
@pytest.mark.parametrize(("rank", "diagonal"), itertools.product([0, 2], [True, False]))
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_every_way_to_compute_the_product_matches_the_equation(out_features, in_features, rank, diagonal, with_bias, transposed):
    factors = terms(out_features, in_features, rank, diagonal)
    bias = torch.randn(out_features, dtype=torch.float64) if with_bias else None
    x = torch.randn(3, 5, in_features, dtype=torch.float64)
    expected = by_the_equation(x, bias, *factors)
    with torch.no_grad():
        if transposed:
            factors = [term if term is None or term.dim() != 2 else term.t().contiguous().t() for term in factors]
        torch.testing.assert_close(factor_by_factor(x.flatten(0, 1), bias, *factors), expected.flatten(0, 1))
        torch.testing.assert_close(nn.functional.linear(x, compose(*factors), bias), expected)
        torch.testing.assert_close(product(x, bias, *factors), expected)
        assert compose(*factors).stride() == factors[0].stride(), "composing keeps the memory layout"


@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
@pytest.mark.parametrize(("rank", "diagonal"), itertools.product([0, 2], [True, False]))
def test_gradients_match_the_equation(out_features, in_features, rank, diagonal):
    factors = terms(out_features, in_features, rank, diagonal)
    bias = torch.randn(out_features, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 5, in_features, dtype=torch.float64, requires_grad=True)
    inputs = [tensor for tensor in (x, bias, *factors) if tensor is not None]
    seed = torch.randn(3, 5, out_features, dtype=torch.float64)
    expected = torch.autograd.grad(by_the_equation(x, bias, *factors), inputs, seed)
    torch.testing.assert_close(torch.autograd.grad(product(x, bias, *factors), inputs, seed), expected)


@pytest.mark.parametrize("trained", ["shared", "residual", "input"])
def test_frozen_terms_have_no_gradient(trained):
    factors = terms(6, 6, 2, True)
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=trained == "input")
    for term, kind in zip(factors, ("shared", "residual", "residual", "residual")):
        term.requires_grad_(kind == trained)
    expected_gradient = [tensor for tensor in (x, *factors) if tensor.requires_grad]
    expected = torch.autograd.grad(by_the_equation(x, None, *factors).square().sum(), expected_gradient)
    product(x, None, *factors).square().sum().backward()
    torch.testing.assert_close([tensor.grad for tensor in expected_gradient], list(expected))
    assert all(tensor.grad is None for tensor in (x, *factors) if not tensor.requires_grad)


def test_gradients_of_sharing_layers_are_summed():
    owner = nn.ParameterDict({"w": nn.Parameter(torch.randn(6, 6, dtype=torch.float64))})
    layers = nn.Sequential(*(ResidualLinear(owner, "w", nn.Parameter(torch.zeros(6).double()), 2, True) for _ in range(3)))
    for parameter in layers.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(5, 6, dtype=torch.float64)
    parameters = [owner["w"], *layers.parameters()]
    plain = x
    for layer in layers:
        plain = by_the_equation(plain, layer.bias, layer.shared_weight, layer.up, layer.down, layer.diagonal)
    expected = torch.autograd.grad(plain.square().mean(), parameters)
    layers(x).square().mean().backward()
    torch.testing.assert_close([parameter.grad for parameter in parameters], list(expected))


def test_backward_pass_keeps_only_the_input_and_the_terms():
    factors = terms(6, 4, 2, True)
    x = torch.randn(5, 4, dtype=torch.float64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda tensor: tensor):
        product(x, None, *factors)
    assert set(kept) == {tensor.data_ptr() for tensor in (x, *factors)}


def test_autocast_applies_to_forward_and_backward():
    factors = terms(6, 6, 2, True, torch.float32)
    x = torch.randn(50, 6, requires_grad=True)
    expected = torch.autograd.grad(by_the_equation(x, None, *factors).sum(), [x, *factors])
    with torch.autocast("cpu", torch.bfloat16):
        y = product(x, None, *factors)
        with torch.no_grad():
            assert product(x, None, *factors).dtype == torch.bfloat16
    assert y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y.float().sum(), [x, *factors])
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    torch.testing.assert_close(gradients, expected, rtol=0.05, atol=0.5)


def test_weight_is_composed_only_for_many_positions():
    shared, up, _, _ = terms(64, 32, 2, True)
    border = positions_to_compose(64, 32)
    assert not composing_pays(torch.empty(int(border * 0.9), 32, dtype=torch.float64), shared, up)
    assert composing_pays(torch.empty(int(border * 1.2), 32, dtype=torch.float64), shared, up)
    assert not composing_pays(torch.empty(10 * int(border), 32, dtype=torch.float64), shared, None)
    assert composing_pays(torch.empty(1, 32), shared, up), "of another precision"


def test_tuned_layer_composes_from_its_threshold():
    shared, up, _, _ = terms(64, 32, 2, True)
    for positions in (5, 6):
        assert composing_pays(torch.empty(positions, 32, dtype=torch.float64), shared, up, compose_from=6) == (positions == 6)


def test_transposed_storage_keeps_values_and_sharing():
    owner = nn.ParameterDict({"w": nn.Parameter(torch.randn(6, 4))})
    layer = ResidualLinear(owner, "w", None, 2, True)
    before = {name: parameter.clone() for name, parameter in owner.named_parameters()}
    weight = owner["w"]
    transpose_storage_(owner)
    assert owner["w"] is weight is layer.shared_weight
    assert torch.equal(weight, before["w"])
    assert weight.stride() == (1, 6)
