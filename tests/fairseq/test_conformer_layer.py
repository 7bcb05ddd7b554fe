"""The fast forward pass of shared conformer layers equals fairseq's."""

import copy

import pytest
import torch
from fairseq.modules import RelPositionalEncoding
from fairseq.modules.conformer_layer import ConformerEncoderLayer
from torch import nn

from residual_st.fairseq.layers.conformer_layer import ResidualConformerEncoderLayer
from residual_st.sharing import form_of, share_layers

KINDS = [(None, "abs"), ("espnet", "abs"), ("espnet", "rel_pos"), ("espnet", "rope")]
WIDTH = 32


class Encoder(nn.Module):
    """fairseq's conformer layers, shared, with the inputs that their encoder passes."""

    def __init__(self, attn_type, pos_enc_type, dropout=0.0):
        super().__init__()
        torch.manual_seed(1)
        options = {"attn_type": attn_type, "pos_enc_type": pos_enc_type, "use_fp16": False}
        self.layers = nn.ModuleList(
            ConformerEncoderLayer(WIDTH, 48, 4, dropout, depthwise_conv_kernel_size=5, **options) for _ in range(3)
        )
        self.shared_weights = share_layers(self.layers, form_of(self.layers, group_size=3, rank=2))
        self.positions = RelPositionalEncoding(100, WIDTH) if pos_enc_type == "rel_pos" else None
        for name, value in [*self.named_parameters(), *self.named_buffers()]:
            if name.endswith((".up", ".diagonal", "pos_bias_u", "running_mean")):
                nn.init.normal_(value, std=0.1)

    def forward(self, x, padding=None):
        positions = None if self.positions is None else self.positions(x)
        for layer in self.layers:
            x, (attention, of_the_last_branch) = layer(x, padding, positions)
            assert attention is None
        return x, of_the_last_branch


def faster(encoder: Encoder) -> Encoder:
    encoder = copy.deepcopy(encoder)
    for layer in encoder.layers:
        layer.__class__ = ResidualConformerEncoderLayer
    return encoder


def padding_of(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]


@pytest.mark.parametrize(("attn_type", "pos_enc_type"), KINDS)
@pytest.mark.parametrize("lengths", [(12, 12), (12, 7, 3), (1,), (250, 240)])
def test_outputs_equal_those_of_fairseqs_layer(attn_type, pos_enc_type, lengths):
    stock = Encoder(attn_type, pos_enc_type).eval()
    x, padding = torch.randn(max(lengths), len(lengths), WIDTH), padding_of(*lengths)
    with torch.no_grad():
        expected, result = stock(x, padding), faster(stock)(x, padding)
    for actual_value, expected_value in zip(result, expected):
        torch.testing.assert_close(actual_value, expected_value, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("attn_type", "pos_enc_type"), KINDS)
def test_gradients_and_statistics_equal_those_of_fairseqs_layer(attn_type, pos_enc_type):
    stock = Encoder(attn_type, pos_enc_type).double().train()
    fast = faster(stock)
    seed = torch.randn(12, 3, WIDTH, dtype=torch.float64)
    for encoder in (stock, fast):
        encoder.x = torch.linspace(-1, 1, seed.numel(), dtype=torch.float64).view(seed.shape).requires_grad_()
        states, _ = encoder(encoder.x, padding_of(12, 7, 3))
        states.backward(seed)
    torch.testing.assert_close(fast.x.grad, stock.x.grad)
    gradients, expected = ({name: each.grad for name, each in encoder.named_parameters()} for encoder in (fast, stock))
    assert all(gradient is not None for gradient in gradients.values())
    torch.testing.assert_close(gradients, expected)
    torch.testing.assert_close(dict(fast.named_buffers()), dict(stock.named_buffers()))


@pytest.mark.parametrize(("attn_type", "pos_enc_type"), KINDS)
def test_dropout_is_applied_only_in_training(attn_type, pos_enc_type):
    fast = faster(Encoder(attn_type, pos_enc_type, dropout=0.3))
    x = torch.randn(12, 2, WIDTH)
    fast.train()
    assert not torch.equal(fast(x)[0], fast(x)[0])
    fast.eval()
    assert torch.equal(fast(x)[0], fast(x)[0])


def test_model_can_be_copied_after_a_forward_pass():
    """fairseq's espnet attention stores its last weights with their autograd graph."""
    fast = faster(Encoder("espnet", "rel_pos"))
    fast(torch.randn(12, 2, WIDTH))
    copy.deepcopy(fast)


@pytest.mark.parametrize(("attn_type", "pos_enc_type"), KINDS)
def test_autocast_equals_fairseqs_layer(attn_type, pos_enc_type):
    stock = Encoder(attn_type, pos_enc_type).train()
    fast, x = faster(stock), torch.randn(12, 3, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        (expected, _), (states, _) = (encoder(x, padding_of(12, 7, 3)) for encoder in (stock, fast))
    states.sum().backward()
    torch.testing.assert_close(states.float(), expected.float(), rtol=0.1, atol=0.1)
