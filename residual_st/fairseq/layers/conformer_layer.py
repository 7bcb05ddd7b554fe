"""fairseq's Conformer layer, for shared matrices."""

import torch
from fairseq.modules.conformer_layer import ConformerEncoderLayer, ConvolutionModule, FeedForwardModule
from fairseq.modules.espnet_multihead_attention import (
    ESPNETMultiHeadedAttention,
    RelPositionMultiHeadedAttention,
    RotaryPositionMultiHeadedAttention,
)
from fairseq.modules.rotary_positional_embedding import rotate_half
from torch import Tensor, nn
from torch.nn.functional import conv2d, glu

from residual_st.compat import padding_of
from residual_st.fairseq.layers.attention import attention, heads_of
from residual_st.fairseq.layers.dropout import dropout, silu_dropout
from residual_st.fairseq.layers.layer import mask_of, rate_of


class ResidualConformerEncoderLayer(ConformerEncoderLayer):
    """`ConformerEncoderLayer` with the same parameters, and the same outputs up to rounding and the random draws of dropout.

    Everything is computed on (time * batch, width), the layer's input layout. The stock layer uses batch before time in attention
    and channels before time in its convolutions, and copies between them; on a CPU its depthwise convolution takes 10 times as long
    in that layout. The activation is SiLU, fairseq's default and the only one with which it can build the layer.
    """

    def forward(
        self, x: Tensor, encoder_padding_mask: Tensor | None, position_emb: Tensor | None = None
    ) -> tuple[Tensor, tuple[None, Tensor]]:
        """(time, batch, width) -> the same shape, and the stock layer's other outputs: None, and the last branch's output.

        Args:
            encoder_padding_mask: (batch, time), True for padding.
            position_emb: with relative positions, (2 time - 1, 1, width).
        """
        time, batch, _ = x.shape
        x = x.reshape(time * batch, -1)
        x = torch.add(x, _feed_forward(self.ffn1, x), alpha=0.5)
        y = self._attend(self.self_attn_layer_norm(x), batch, encoder_padding_mask, position_emb)
        x = x + dropout(y, rate_of(self.self_attn_dropout))
        x = x + _convolve(self.conv_module, x, batch)
        y = _feed_forward(self.ffn2, x)
        x = self.final_layer_norm(torch.add(x, y, alpha=0.5))
        return x.view(time, batch, -1), (None, y.view(time, batch, -1))

    def _attend(self, x: Tensor, batch: int, padding: Tensor | None, positions: Tensor | None) -> Tensor:
        module, mask = self.self_attn, mask_of(padding, x)
        if not isinstance(module, ESPNETMultiHeadedAttention):
            queries, keys, values = (_heads(getattr(module, f"{name}_proj"), x, batch, module.num_heads) for name in "qkv")
            attended, _ = attention(queries, keys, values, mask, rate_of(module.dropout_module))
            return module.out_proj(attended.flatten(0, 1))
        turned = _turned(module, x, batch) if isinstance(module, RotaryPositionMultiHeadedAttention) else x
        inputs = {"q": turned, "k": turned, "v": x}
        queries, keys, values = (_heads(getattr(module, f"linear_{name}"), inputs[name], batch, module.h) for name in "qkv")
        if isinstance(module, RelPositionMultiHeadedAttention):
            by_position = _scores_of_positions(module, queries, module.linear_pos(positions))
            mask = by_position if mask is None else by_position + mask
            queries = queries + module.pos_bias_u[:, None]
        attended, _ = attention(queries, keys, values, mask, rate_of(module.dropout))
        return module.linear_out(attended.flatten(0, 1))


def _feed_forward(module: FeedForwardModule, x: Tensor) -> Tensor:
    hidden = silu_dropout(module.w_1(module.layer_norm(x)), rate_of(module.dropout1))
    return dropout(module.w_2(hidden), rate_of(module.dropout2))


def _convolve(module: ConvolutionModule, x: Tensor, batch: int) -> Tensor:
    y = glu(module.pointwise_conv1(module.layer_norm(x).mT).mT)
    y = silu_dropout(module.batch_norm(_over_time(module.depthwise_conv, y, batch)), 0.0)
    return dropout(module.pointwise_conv2(y.mT).mT, rate_of(module.dropout))


def _over_time(conv: nn.Conv1d, x: Tensor, batch: int) -> Tensor:
    """A depthwise convolution over time of x (time * batch, width), with channels last in memory."""
    image = x.view(1, -1, batch, x.size(-1)).permute(0, 3, 1, 2)  # (1, width, time, batch)
    padding, stride, dilation = (padding_of(conv), 0), (conv.stride[0], 1), (conv.dilation[0], 1)
    y = conv2d(image, conv.weight[..., None], conv.bias, stride, padding, dilation, conv.groups)
    return y.permute(0, 2, 3, 1).reshape(x.shape)


def _heads(linear: nn.Module, x: Tensor, batch: int, heads: int) -> Tensor:
    """(time * batch, width) -> (batch, heads, time, width / heads)"""
    return heads_of(linear(x).view(-1, batch, linear.out_features), heads)


def _scores_of_positions(module: RelPositionMultiHeadedAttention, queries: Tensor, positions: Tensor) -> Tensor:
    """Attention scores from the positions of keys relative to queries (Dai et al., arXiv 1901.02860, section 3.3, terms b and d).

    Args:
        queries: (batch, heads, time, width / heads).
        positions: (2 time - 1, 1, width), from the farthest earlier to the farthest later position, projected.

    Returns:
        (batch, heads, time, time), divided by the square root of width / heads.
    """
    batch, heads, time, width = queries.shape
    keys = positions.view(2 * time - 1, heads, width)
    queries = (queries + module.pos_bias_v[:, None]) * width**-0.5
    queries = queries.permute(1, 2, 0, 3).reshape(heads, time * batch, width)
    scores = torch.bmm(queries, keys.permute(1, 2, 0))  # (heads, time * batch, 2 time - 1)
    # distance 0 is in the middle; for each later query the scores start one position earlier
    strides = (scores.size(2), scores.stride(0), batch * scores.size(2) - 1, 1)
    return scores.as_strided((batch, heads, time, time), strides, time - 1)


def _turned(module: RotaryPositionMultiHeadedAttention, x: Tensor, batch: int) -> Tensor:
    """x (time * batch, width) rotated by its time positions, which fairseq does before projecting queries and keys."""
    x_by_head = x.view(-1, batch, module.h, module.d_k)
    cos, sin = (table[: len(x_by_head)] for table in module.rotary_emb(x_by_head, seq_len=len(x_by_head)))
    return (x_by_head * cos + rotate_half(x_by_head) * sin).view_as(x)
