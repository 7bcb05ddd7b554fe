"""fairseq's encoder layer, for shared matrices."""

import torch
from fairseq.modules.multihead_attention import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerEncoderLayer
from torch import Tensor, nn

from residual_st.fairseq.layers.attention import attention
from residual_st.fairseq.layers.layer import ResidualTransformerLayer, mask_of, rate_of

Past = tuple[Tensor, Tensor]  # keys and values


class ResidualTransformerEncoderLayer(ResidualTransformerLayer, TransformerEncoderLayer):
    """`TransformerEncoderLayer` with the same parameters, and the same outputs up to rounding and the random draws of dropout."""

    self_attn: MultiheadAttention
    self_attn_layer_norm: nn.LayerNorm
    final_layer_norm: nn.LayerNorm

    def forward(self, x: Tensor, encoder_padding_mask: Tensor | None, attn_mask: Tensor | None = None) -> Tensor:
        """(time, batch, width) -> (time, batch, width).

        Args:
            encoder_padding_mask: (batch, time), True for padding.
            attn_mask: (time, time), nonzero if a position must not attend to another.
        """
        mask = mask_of(encoder_padding_mask, x)
        if attn_mask is not None:
            apart = torch.zeros_like(attn_mask, dtype=x.dtype).masked_fill_(attn_mask.bool(), _apart(x.dtype))
            mask = apart[None, None] if mask is None else mask + apart
        return self._encode(x, mask)[0]

    def forward_chunk(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """A chunk (time, 1, width) that attends to itself and to its past -> the same shape, and the keys and values of both.

        These are (1, heads, time, width / heads).
        """
        return self._encode(x, None, past)

    def _encode(self, x: Tensor, mask: Tensor | None, past: Past | None = None) -> tuple[Tensor, Past]:
        y = self._enter(x, self.self_attn_layer_norm)
        queries, keys, values = self._project(self.self_attn, "qkv", y, x.size(1))
        if past is not None:
            keys, values = (torch.cat(pair, dim=2) for pair in zip(past, (keys, values)))
        attended, _ = attention(queries, keys, values, mask, rate_of(self.self_attn.dropout_module))
        x = self._leave(x, self.self_attn.out_proj(attended.flatten(0, 1)), self.self_attn_layer_norm)
        y = self._feed_forward(self._enter(x, self.final_layer_norm))
        return self._leave(x, y, self.final_layer_norm), (keys, values)


def _apart(dtype: torch.dtype) -> float:
    """The mask's value, as in stock: finite, so that padding without anything to attend to does not become NaN."""
    return -1e8 if dtype in (torch.float32, torch.float64) else -1e4
