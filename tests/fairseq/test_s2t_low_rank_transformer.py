import pytest
import torch
from conftest import tiny_model

from residual_st.errors import InputError
from residual_st.fairseq.s2t_low_rank_transformer import LowRank, rank_of
from residual_st.sharing import matrices, matrix_parameters

ARCH = "s2t_low_rank_transformer_s"


def test_keeps_at_most_the_fraction_and_nearly_all_of_it():
    model, dense = tiny_model(ARCH, encoder_weight_fraction=0.6), tiny_model("s2t_transformer_s")
    kept, whole = (matrix_parameters(its.encoder.transformer_layers) for its in (model, dense))
    assert 0.52 * whole < kept <= 0.6 * whole


def test_trains_every_term_and_computes_what_its_weights_say(batch):
    model = tiny_model(ARCH)
    model(**batch)[0].logsumexp(-1).sum().backward()
    for layer in model.encoder.transformer_layers:
        for _, linear in matrices(layer):
            up, down, diagonal = linear.parametrizations.weight.parameters()
            assert up.grad.abs().sum() > 0 and down.grad.abs().sum() > 0 and diagonal.grad.abs().sum() > 0
            expected = (
                up @ down + torch.eye(*linear.weight.shape) * torch.nn.functional.pad(diagonal, (0, 64))[: linear.weight.shape[1]]
            )
            torch.testing.assert_close(linear.weight, expected)


def test_the_start():
    """The output projections start at 0, as in the residual model; every other matrix near the stock model's draw."""
    stock = tiny_model("s2t_transformer_s").encoder.transformer_layers
    encoder = tiny_model(ARCH, fresh=True, encoder_weight_fraction=0.9).encoder
    for layer, drawn in zip(encoder.transformer_layers, stock):
        for (name, linear), (_, stock_linear) in zip(matrices(layer), matrices(drawn)):
            if name in ("self_attn.out_proj", "fc2"):
                assert not linear.weight.any()
            else:
                assert (linear.weight - stock_linear.weight).norm() < 0.5 * stock_linear.weight.norm()


def test_full_rank_loses_nothing():
    weight = torch.randn(6, 4)
    form = LowRank(4)
    torch.testing.assert_close(form(*form.right_inverse(weight)), weight)


def test_refuses_a_size_without_rank():
    with pytest.raises(InputError, match="leaves no rank"):
        rank_of((32, 32), 0.05)
