import copy
from argparse import Namespace

import pytest
import torch
from conftest import TINY, same_weights, tiny_flags, tiny_model
from fairseq.models import ARCH_CONFIG_REGISTRY

from residual_st.errors import InputError
from residual_st.sharing import ResidualLinear, matrices, matrix_kind

DENSE = {"encoder_group_size": 1, "encoder_residual_rank": 0, "encoder_residual_diagonal": False}


def test_group_size_one_is_the_stock_model(fairseq_train, data, tmp_path):
    """Equal parameters, and bitwise equal losses in 20 updates."""
    stock = tiny_model("s2t_transformer_s").state_dict()
    residual_state = tiny_model(**DENSE).state_dict()
    assert same_weights(stock, residual_state)
    stock_losses = fairseq_train(data, tmp_path / "stock", arch="s2t_transformer_s", max_update=20)
    options = {"encoder_group_size": 1, "encoder_residual_rank": 0, "no_encoder_residual_diagonal": True}
    losses = fairseq_train(data, tmp_path / "residual", max_update=20, **options)
    assert len(losses) == 20
    assert losses == stock_losses


def test_initialisation():
    """U starts as in the stock model, except that output projections start at 0, as do the residuals."""
    stock = tiny_model("s2t_transformer_s").encoder.transformer_layers[0]
    encoder = tiny_model(fresh=True, encoder_group_size=6, encoder_residual_rank=4).encoder
    drawn = dict(matrices(stock))
    for layer in encoder.transformer_layers:
        for name, linear in matrices(layer):
            begun = 0 if name in ("self_attn.out_proj", "fc2") else 1
            torch.testing.assert_close(linear.weight, drawn[name].weight * begun)
            assert linear.down.detach().var().item() == pytest.approx(1 / 4, rel=0.4)


def test_every_term_has_a_gradient_and_an_effect(batch):
    """U, A, B and d of all six matrices of each layer. fairseq's attention reads `weight` without calling `forward`."""
    model = tiny_model().eval()
    linears = {(i, name): linear for i, layer in enumerate(model.encoder.transformer_layers) for name, linear in matrices(layer)}
    assert len(linears) == 6 * TINY["encoder_layers"]
    for linear in linears.values():
        torch.nn.init.normal_(linear.up, std=0.1)
        torch.nn.init.normal_(linear.diagonal, std=0.1)

    def output():
        return model(**batch)[0]

    output().square().sum().backward()
    before = output().detach()
    for place, linear in linears.items():
        assert isinstance(linear, ResidualLinear)
        for factor in ("shared_weight", "up", "down", "diagonal"):
            parameter = getattr(linear, factor)
            assert parameter.grad.abs().max() > 0, (place, factor)
            saved = parameter.detach().clone()
            with torch.no_grad():
                parameter += 0.1 * torch.randn_like(parameter)
                assert not torch.equal(output(), before), (place, factor)
                parameter.copy_(saved)


@pytest.mark.parametrize("suffix", ["", "_xs", "_s", "_sp", "_m", "_mp", "_l", "_lp"])
def test_arch_sizes_match_the_stock_archs(suffix):
    stock, residual = Namespace(), Namespace()
    ARCH_CONFIG_REGISTRY[f"s2t_transformer{suffix}"](stock)
    ARCH_CONFIG_REGISTRY[f"s2t_residual_transformer{suffix}"](residual)
    own = {name: value for name, value in vars(residual).items() if name not in vars(stock)}
    assert own == {
        "encoder_group_size": 3,
        "encoder_residual_rank": 2,
        "encoder_residual_diagonal": True,
        "encoder_sharing_pattern": "adjacent",
        "decoder_group_size": 1,
        "decoder_residual_rank": 0,
        "decoder_residual_diagonal": False,
        "decoder_sharing_pattern": "adjacent",
        "decoder_inference_mode": "compact",
        "encoder_inference_mode": "compact",
    }
    assert {**vars(residual), **vars(stock)} == vars(residual)


def test_only_encoder_matrices_are_replaced():
    stock = tiny_model("s2t_transformer_s").state_dict()
    residual_state = tiny_model().state_dict()
    gone = {
        name for name in stock if name not in residual_state and not name.endswith(("_weight", "_bias"))
    }  # fairseq 0.12.2's copies
    matrix_names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2")
    assert gone == {f"encoder.transformer_layers.{index}.{name}.weight" for index in range(6) for name in matrix_names}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_group_size": 7}, "group size 7 does not fit a stack of 6 layers"),
        ({"encoder_residual_rank": 33}, "rank 33 .* it must be from 0 to 32"),
        ({"quant_noise_pq": 0.1}, "quant_noise_pq=0.1 does not work"),
        ({"encoder_layerdrop": 0.1}, "encoder_layerdrop=0.1 does not work"),
        ({"checkpoint_activations": True}, "checkpoint_activations=True does not work"),
    ],
)
def test_invalid_flags_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        tiny_model(**options)


def test_deepcopy_and_half_keep_shared_tensors():
    model = copy.deepcopy(tiny_model()).half()
    names = [name for name, _ in model.named_parameters() if "shared_weights" in name]
    assert len(names) == 12
    used = {id(linear.shared_weight) for layer in model.encoder.transformer_layers for _, linear in matrices(layer)}
    assert used == {id(model.get_parameter(name)) for name in names}
    assert all(parameter.dtype == torch.float16 for parameter in model.parameters())


def test_encoder_freezing(batch):
    model = tiny_model(encoder_freezing_updates=2)
    for update, frozen in [(0, True), (2, False)]:
        model.zero_grad()
        model.set_num_updates(update)
        model(**batch)[0].sum().backward()
        grads = [parameter.grad for parameter in model.encoder.parameters()]
        assert all(grad is None for grad in grads) == frozen


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_has_gradients(batch, dtype):
    """The conversion that --fp16 and --bf16 do. fairseq's optimizers for them need a GPU, also for the stock model."""
    model = tiny_model().to(dtype)
    model(**{**batch, "src_tokens": batch["src_tokens"].to(dtype)})[0].float().square().mean().backward()
    for linear in (linear for layer in model.encoder.transformer_layers for _, linear in matrices(layer)):
        assert linear.weight.dtype == dtype
        assert linear.shared_weight.grad.isfinite().all()
        assert linear.up.grad.abs().max() > 0


def test_flags_are_completed_and_kept():
    flags = tiny_flags("s2t_residual_transformer_paper", encoder_residual_rank=16)
    assert flags.encoder_residual_rank == 16
    flags = Namespace()
    ARCH_CONFIG_REGISTRY["s2t_residual_transformer_paper"](flags)
    shape = (flags.encoder_layers, flags.encoder_embed_dim, flags.encoder_ffn_embed_dim, flags.encoder_attention_heads)
    assert shape == (18, 512, 2048, 8)


def test_ranks_are_set_by_layer_and_matrix():
    model = tiny_model(encoder_residual_rank="0,1,2,3,4,1/2/3/4/5/6")
    ranks = [[linear.rank for _, linear in matrices(layer)] for layer in model.encoder.transformer_layers]
    assert ranks == [[0] * 6, [1] * 6, [2] * 6, [3] * 6, [4] * 6, [1, 2, 3, 4, 5, 6]]
    names = [name for name, _ in matrices(model.encoder.transformer_layers[0])]
    assert [matrix_kind(name) for name in names] == ["k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2"]


@pytest.mark.parametrize(
    ("rank", "message"), [("1,2", "names 2 layers"), ("1/2", "has 2 ranks, but a layer has 6"), ("x", "'x' is not known")]
)
def test_invalid_ranks_are_refused_before_the_model_is_built(rank, message):
    with pytest.raises(InputError, match=message):
        tiny_flags(encoder_residual_rank=rank)
