"""Layers of fairseq's Conformer (Gulati et al., arXiv 2005.08100), with fairseq's or ESPnet's attention."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import spox.opset.ai.onnx.v21 as op
from fairseq.modules import (
    ESPNETMultiHeadedAttention,
    MultiheadAttention,
    RelPositionMultiHeadedAttention,
    RotaryPositionMultiHeadedAttention,
)
from fairseq.modules.conformer_layer import ConvolutionModule, FeedForwardModule
from spox import Var
from spox._future import initializer
from torch import nn

from residual_st.compat import padding_of
from residual_st.errors import InputError
from residual_st.export.constants import integer, ints, number
from residual_st.export.layers import Attention, Branches, Layers, activation_of, gated

_TO_THE_END = np.iinfo(np.int64).max

Attend = Callable[[Var, Any], Var]  # states (batch * time, width), a layer's attention module -> output of the attention


def conformer(branches: Branches, x: Var, mask: Var, layers: Layers) -> Var:
    """Output of the layers for x (batch * time, width), with a mask from `attention_mask`.

    Raises:
        InputError: for an unsupported attention or activation function.
    """
    products, attend = branches.products, _attending(branches, layers[0].self_attn, mask)
    for layer in layers:
        x = op.add(x, _half_feed_forward(branches, x, layer.ffn1))
        x = op.add(x, attend(products.norm(x, layer.self_attn_layer_norm), layer.self_attn))
        x = op.add(x, _convolution(branches, x, layer.conv_module))
        x = op.add(x, _half_feed_forward(branches, x, layer.ffn2))
        x = products.norm(x, layer.final_layer_norm)
    return x


def _half_feed_forward(branches: Branches, x: Var, module: FeedForwardModule) -> Var:
    products = branches.products
    x = products.norm(x, module.layer_norm)
    return op.mul(products.feed_forward(x, module.w_1, activation_of(module.activation), module.w_2), number(0.5))


def _convolution(branches: Branches, x: Var, module: ConvolutionModule) -> Var:
    """The convolution module. Batch normalisation, with its training statistics, is folded into the depthwise convolution."""
    products, conv, norm = branches.products, module.depthwise_conv, module.batch_norm
    x = gated(products.linear(products.norm(x, module.layer_norm), module.pointwise_conv1))
    x = op.transpose(op.reshape(x, op.concat([branches.batch, branches.time, ints(-1)], axis=0)), perm=[0, 2, 1])
    fused = nn.utils.fuse_conv_bn_eval(conv, norm)
    weight, bias, padding = products.constant(fused.weight), products.constant(fused.bias), padding_of(conv)
    x = activation_of(module.activation)(op.conv(x, weight, bias, group=conv.groups, pads=[padding, padding]))
    x = op.reshape(op.transpose(x, perm=[0, 2, 1]), ints(-1, conv.out_channels))
    return products.linear(x, module.pointwise_conv2)


def _attending(branches: Branches, first: nn.Module, mask: Var) -> Attend:
    """The attention function for layers that have the same kind of attention as `first`."""
    make = next((make for kind, make in _KINDS.items() if isinstance(first, kind)), None)
    if make is None:
        names = ", ".join(kind.__name__ for kind in _KINDS)
        raise InputError(f"an encoder with {type(first).__name__} cannot be exported; its attention must be one of {names}")
    return make(branches, first, mask)


def _absolute(branches: Branches, first: nn.Module, mask: Var, matrices: Callable[[Any], Attention]) -> Attend:
    """Attention that adds no positions."""

    def attend(x: Var, module: Any) -> Var:
        attention = matrices(module)
        queries, keys, values = branches.heads(x, attention, "qkv")
        return branches.attend(queries, keys, values, mask, attention)

    return attend


def _rotary(branches: Branches, first: RotaryPositionMultiHeadedAttention, mask: Var) -> Attend:
    """Attention with rotary positions (Su et al., arXiv 2104.09864). fairseq rotates each head's states, not queries and keys."""
    attention, rates = _espnet(first), first.rotary_emb.inv_freq.numpy()
    heads, half = attention.heads, attention.width // 2
    longest = op.squeeze(branches.time, ints(0))
    places = op.cast(op.range(integer(0), longest, integer(1)), to=np.float32)
    angles = op.mul(op.unsqueeze(places, ints(1, 2)), initializer(rates))  # (time, 1, width / heads / 2), the same for all heads
    angles = op.concat([angles, angles], axis=2)
    cosines, sines = op.cos(angles), op.sin(angles)
    shape = op.concat([branches.batch, branches.time, ints(heads, 2 * half)], axis=0)

    def attend(x: Var, module: Any) -> Var:
        attention, parts = _espnet(module), op.reshape(x, shape)
        one, two = op.split(parts, num_outputs=2, axis=3)
        rotated = op.add(op.mul(parts, cosines), op.mul(op.concat([op.neg(two), one], axis=3), sines))
        queries, keys = branches.heads(op.reshape(rotated, ints(-1, 2 * half * heads)), attention, "qk")
        (values,) = branches.heads(x, attention, "v")
        return branches.attend(queries, keys, values, mask, attention)

    return attend


def _relative(branches: Branches, first: RelPositionMultiHeadedAttention, mask: Var) -> Attend:
    """Attention with relative positions (Dai et al., arXiv 1901.02860, 3.3): scores (q + u) kᵀ + (q + v) pᵀ, p by distance."""
    products, time = branches.products, branches.time
    positions = _distances(time, first.linear_pos.in_features)

    def attend(x: Var, module: Any) -> Var:
        attention = _espnet(module)
        heads, width = attention.heads, attention.width
        queries, keys, values = branches.heads(x, attention, "qkv")
        content, distance = (
            op.add(queries, op.unsqueeze(products.constant(bias), ints(1))) for bias in (module.pos_bias_u, module.pos_bias_v)
        )
        of_distances = op.reshape(products.linear(positions, module.linear_pos), ints(-1, heads, width))
        to_keys = op.matmul(content, op.transpose(keys, perm=[0, 1, 3, 2]))
        to_distances = op.matmul(distance, op.transpose(of_distances, perm=[1, 2, 0]))
        scores = op.add(to_keys, _by_key(to_distances, op.concat([branches.batch, ints(heads)], axis=0), time))
        return branches.weighted(scores, values, mask, attention)

    return attend


def _distances(time: Var, width: int) -> Var:
    """Sinusoidal embeddings (2 time, width) of the distances time, time - 1, ..., 1 - time from a query back to a key.

    The largest distance does not occur; `_by_key` needs it.
    """
    longest = op.squeeze(time, ints(0))
    places = op.cast(op.range(longest, op.neg(longest), integer(-1)), to=np.float32)
    rates = np.exp(np.arange(0, width, 2, dtype=np.float32) * -np.float32(np.log(10000) / width))
    phases = op.mul(op.unsqueeze(places, ints(1)), initializer(rates))
    return op.reshape(
        op.concat([op.unsqueeze(each, ints(2)) for each in (op.sin(phases), op.cos(phases))], axis=2), ints(-1, width)
    )


def _by_key(scores: Var, leading: Var, time: Var) -> Var:
    """Scores by distance (..., query, 2 time), in the order of `_distances` -> (..., query, key).

    The score of query i and key j is in row i at time - i + j, so at time + (2 time - 1) i + j of the flattened rows: after the
    first `time` numbers, rows have one number less.
    """
    flat = op.slice(op.reshape(scores, op.concat([leading, ints(-1)], axis=0)), time, ints(_TO_THE_END), ints(-1))
    return op.slice(op.reshape(flat, op.concat([leading, time, ints(-1)], axis=0)), ints(0), time, ints(-1))


def _espnet(module: ESPNETMultiHeadedAttention) -> Attention:
    return Attention(module.linear_q, module.linear_k, module.linear_v, module.linear_out, module.h)


_KINDS: dict[type, Callable[[Branches, Any, Var], Attend]] = {  # base classes last
    RelPositionMultiHeadedAttention: _relative,
    RotaryPositionMultiHeadedAttention: _rotary,
    ESPNETMultiHeadedAttention: partial(_absolute, matrices=_espnet),
    MultiheadAttention: partial(_absolute, matrices=Attention.of),
}
