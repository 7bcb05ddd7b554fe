"""Low-rank matrices without sharing (`=R`), also mixed with shared matrices."""

import pytest
import torch
from conftest import tiny_model

from residual_st.errors import InputError
from residual_st.sharing import LowRankLinear, ResidualRanks, form_of, matrices, share_layers, unshare_layers
from residual_st.sharing.linear import ResidualLinear

NAMES = ("k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2")
RANK = "2/2/=3/=32/=4/2"  # the fourth is the full rank of the tiny model


def test_rank_without_sharing_differs_from_a_residual_rank():
    ranks = ResidualRanks.make("2,=2", layers=2, matrices=("a",))
    assert str(ranks) == "2,=2"
    assert ranks.rows[0] != ranks.rows[1]
    assert ResidualRanks.make(ranks.to_flag(), 2, ("a",)) == ranks


@pytest.mark.parametrize("text", ["=0", "=", "=-1", "=x", "2/=0"])
def test_invalid_rank_without_sharing_is_refused(text):
    with pytest.raises(InputError, match="where = marks a matrix that shares nothing"):
        ResidualRanks.make(text, layers=1, matrices=("a", "b"))


@pytest.mark.parametrize("diagonal", [False, True])
def test_weight_is_the_product_of_its_factors(diagonal):
    torch.manual_seed(1)
    linear = LowRankLinear(torch.randn(6, 4), torch.nn.Parameter(torch.randn(6)), 3, diagonal)
    if diagonal:
        torch.nn.init.normal_(linear.diagonal)
    weight = linear.up @ linear.down
    if diagonal:
        weight = weight + torch.cat([torch.diag(linear.diagonal), torch.zeros(2, 4)])
    torch.testing.assert_close(linear.weight, weight)
    x = torch.randn(2, 5, 4, requires_grad=True)
    torch.testing.assert_close(linear(x), torch.nn.functional.linear(x, weight, linear.bias))
    expected = torch.autograd.grad(torch.nn.functional.linear(x, weight, linear.bias).square().sum(), [x, *linear.parameters()])
    actual = torch.autograd.grad(linear(x).square().sum(), [x, *linear.parameters()])
    for actual_gradient, expected_gradient in zip(actual, expected):
        torch.testing.assert_close(actual_gradient, expected_gradient)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x), torch.nn.functional.linear(x, weight, linear.bias))


def test_initial_product_has_the_norm_of_the_weight():
    torch.manual_seed(1)
    weight = torch.randn(64, 64)
    assert 0.7 < LowRankLinear(weight, None, 16, False).weight.norm() / weight.norm() < 1.4


def test_model_with_shared_and_unshared_matrices(batch):
    model = tiny_model(encoder_residual_rank=RANK)
    shared, layer = model.encoder.shared_weights, model.encoder.transformer_layers[1]
    assert set(shared["0"]) == {"self_attn_k_proj", "self_attn_v_proj", "fc2"}
    kinds = {name.rpartition(".")[2]: type(linear) for name, linear in matrices(layer)}
    assert kinds["q_proj"] is kinds["fc1"] is LowRankLinear
    assert kinds["k_proj"] is kinds["fc2"] is ResidualLinear
    assert kinds["out_proj"] is torch.nn.Linear
    model.train()
    model(**batch)[0].square().mean().backward()
    with torch.no_grad():  # output projections start at 0, which blocks gradients to the matrices before them
        for parameter in model.encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.zero_grad()
    model(**batch)[0].square().mean().backward()
    terms = [parameter for layer in model.encoder.transformer_layers for parameter in layer.parameters()]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in terms if parameter.dim() > 1)
    loaded = tiny_model(encoder_residual_rank=RANK)
    loaded.load_state_dict(model.state_dict())
    for each in (model, loaded):
        each.eval()
    before = model(**batch)[0]
    assert torch.equal(loaded(**batch)[0], before)
    unshare_layers(model.encoder.transformer_layers)
    torch.testing.assert_close(model(**batch)[0], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["compact", "fast"])
def test_inference_modes_keep_the_outputs(batch, mode):
    model = tiny_model(encoder_residual_rank=RANK, encoder_inference_mode=mode).eval()
    before = model(**batch)[0]
    model.encoder.prepare_for_inference_()
    torch.testing.assert_close(model(**batch)[0], before, rtol=1e-4, atol=1e-5)


def test_rank_above_the_full_rank_is_refused():
    layers = tiny_model("s2t_transformer_s").encoder.transformer_layers
    with pytest.raises(InputError, match="residual rank =33 does not fit"):
        share_layers(layers, form_of(layers, rank="=33"))


def test_order_of_parameters_matches_saved_optimizers():
    """fairseq saves optimizer states by parameter number, so another order would assign them to other matrices."""
    for rank in (2, RANK):
        owner = tiny_model(encoder_residual_rank=rank).encoder.shared_weights["0"]
        assert list(owner) == sorted(owner)
