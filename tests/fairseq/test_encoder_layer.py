import copy
from argparse import Namespace

import pytest
import torch
from conftest import TINY, tiny_flags, tiny_model
from fairseq.modules.transformer_layer import TransformerEncoderLayer

from residual_st.fairseq.layers.encoder_layer import ResidualTransformerEncoderLayer
from residual_st.sharing import ResidualLinear, matrices


def layer_and_input(length=9, batch=3, **options):
    """The second layer of a model with random parameters, and inputs of three lengths."""
    encoder = tiny_model(dropout=0.0, **options).encoder.double()
    torch.manual_seed(1)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    layer = encoder.transformer_layers[1]
    x = torch.randn(length, batch, TINY["encoder_embed_dim"], dtype=torch.float64)
    padding = torch.zeros(batch, length, dtype=torch.bool)
    padding[1, -1] = padding[2, 4:] = True
    return layer, x, padding


@pytest.mark.parametrize("normalize_before", [True, False])
@pytest.mark.parametrize("activation_fn", ["relu", "gelu"])
@pytest.mark.parametrize("padded", [True, False])
def test_output_and_gradients_equal_those_of_the_stock_layer(normalize_before, activation_fn, padded):
    layer, x, padding = layer_and_input(encoder_normalize_before=normalize_before, activation_fn=activation_fn)
    assert type(layer) is ResidualTransformerEncoderLayer
    x.requires_grad_()
    padding = padding if padded else torch.zeros_like(padding)
    owner = layer.fc1._owner[0]
    inputs = [x, *layer.parameters(), *owner.parameters()]
    outputs = [function(layer, x, padding) for function in (TransformerEncoderLayer.forward, type(layer).forward)]
    seed = torch.randn_like(x).masked_fill(padding.T[:, :, None], 0)  # outputs at padding are ignored
    expected, actual = (torch.autograd.grad((output * seed).sum(), inputs) for output in outputs)
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(actual, expected)


def test_attention_mask_acts_as_in_the_stock_layer():
    layer, x, padding = layer_and_input()
    inside = ~padding.T[:, :, None]
    mask = torch.ones(9, 9).triu(1)
    actual, expected = layer(x, padding, mask), TransformerEncoderLayer.forward(layer, x, padding, mask)
    torch.testing.assert_close(actual * inside, expected * inside)
    assert not torch.allclose(actual, layer(x, padding))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_that_attend_only_to_padding_are_not_nan(dtype):
    layer, x, padding = layer_and_input()
    layer.fc1._owner[0].to(dtype)
    mask = (torch.arange(9)[:, None] // 2 != torch.arange(9) // 2).float()
    assert layer.to(dtype)(x.to(dtype), padding, mask).isfinite().all()


def test_dropout_rates_follow_the_flags():
    """Each of the three rates has an effect in training, and none in evaluation."""
    layer, x, padding = layer_and_input()
    plain = layer(x, padding)
    for module in (layer.dropout_module, layer.activation_dropout_module, layer.self_attn.dropout_module):
        module.p = 0.5
        layer.train()
        assert not torch.allclose(layer(x, padding), plain)
        layer.eval()
        assert torch.equal(layer(x, padding), plain)
        module.apply_during_inference = True  # as --retain-dropout does
        assert not torch.allclose(layer(x, padding), plain)
        module.p, module.apply_during_inference = 0.0, False


def test_composing_keeps_the_outputs():
    layer, x, padding = layer_and_input()
    composed = copy.deepcopy(layer)
    composed.compose_()
    assert not any(isinstance(linear, ResidualLinear) for _, linear in matrices(composed))
    torch.testing.assert_close(composed(x, padding), layer(x, padding))


def test_layers_of_a_group_share_one_tensor_and_have_separate_biases():
    flags = Namespace(**{**vars(tiny_flags()), "encoder_group_size": 3})
    model = tiny_model(encoder_group_size=flags.encoder_group_size)
    layers = model.encoder.transformer_layers
    assert layers[0].fc1.shared_weight is layers[2].fc1.shared_weight
    assert layers[0].fc1.shared_weight is not layers[3].fc1.shared_weight
    biases = {layer.fc1.bias.data_ptr() for layer in layers}
    norms = {layer.final_layer_norm.weight.data_ptr() for layer in layers}
    assert len(biases) == len(norms) == len(layers)
