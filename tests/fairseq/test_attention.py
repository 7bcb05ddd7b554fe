import pytest
import torch
from torch import nn

from residual_st.fairseq.layers.attention import LENGTH_TO_FUSE, attention, heads_of, padding_mask

LENGTHS = [7, LENGTH_TO_FUSE + 1]  # below and above the length at which the kernel changes


def self_attention(queries, keys, values, heads, padding, rate):
    mask = None if padding is None else padding_mask(padding, queries)
    return attention(*(heads_of(x, heads) for x in (queries, keys, values)), mask, rate)[0]


def projected(length, batch=3, width=8):
    torch.manual_seed(1)
    return torch.randn(3, length, batch, width, dtype=torch.float64)


def padding_of(length):
    padding = torch.zeros(3, length, dtype=torch.bool)
    padding[1, -2:] = padding[2, 1:] = True
    return padding


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("padded", [True, False])
def test_attention_equals_that_of_torch(length, padded):
    queries, keys, values = projected(length)
    padding = padding_of(length) if padded else None
    reference = nn.MultiheadAttention(8, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.eye(8).repeat(3, 1))
        reference.out_proj.weight.copy_(torch.eye(8))
    expected, _ = reference(queries, keys, values, key_padding_mask=padding, need_weights=False)
    torch.testing.assert_close(self_attention(queries, keys, values, 2, padding, 0.0), expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_dropout_is_applied_to_weights_and_keeps_the_mean(length):
    queries, keys, values = projected(length)
    padding = padding_of(length)
    torch.manual_seed(1)
    draws = torch.stack([self_attention(queries, keys, values, 2, padding, 0.3) for _ in range(400)])
    expected = self_attention(queries, keys, values, 2, padding, 0.0)
    error = (draws.mean(0) - expected).abs() / (draws.std(0) / 400**0.5)
    assert error.max() < 6
    # the third utterance has a single position: its value is either scaled or dropped
    values_seen = draws[:, :, 2] / values[0, 2]
    assert torch.isclose(values_seen, torch.tensor(0.0).double()).any()
    scaled = torch.isclose(values_seen, torch.tensor(1 / 0.7).double(), rtol=1e-4)
    assert (scaled | (values_seen == 0)).all()


def test_gradients_equal_those_of_torch():
    x = projected(4, batch=2, width=4).requires_grad_()
    padding = torch.tensor([[False, False, False, False], [False, False, True, True]])
    assert torch.autograd.gradcheck(lambda x: self_attention(*x, 2, padding, 0.0), x)
