"""fairseq's encoder layer, for matrices that are shared."""

from fairseq.modules.transformer_layer import TransformerEncoderLayer
from torch import Tensor

from residual_st.fairseq.layers.attention import attention
from residual_st.fairseq.layers.layer import ResidualTransformerLayer, mask_of, rate_of


class ResidualTransformerEncoderLayer(ResidualTransformerLayer, TransformerEncoderLayer):
    """`TransformerEncoderLayer`: same parameters, and same outputs up to rounding. Which elements dropout hits differs."""

    def forward(self, x: Tensor, encoder_padding_mask: Tensor | None, attn_mask: Tensor | None = None) -> Tensor:
        """(time, batch, width) -> (time, batch, width); the mask is (batch, time), True for padding."""
        if attn_mask is not None:
            return super().forward(x, encoder_padding_mask, attn_mask)
        y = self._attend(self._enter(x, self.self_attn_layer_norm), x.size(1), encoder_padding_mask)
        x = self._leave(x, y, self.self_attn_layer_norm)
        y = self._feed_forward(self._enter(x, self.final_layer_norm))
        return self._leave(x, y, self.final_layer_norm)

    def _attend(self, x: Tensor, batch: int, padding: Tensor | None) -> Tensor:
        projected = self._project(self.self_attn, "qkv", x, batch)
        attended, _ = attention(*projected, mask_of(padding, x), rate_of(self.self_attn.dropout_module))
        return self.self_attn.out_proj(attended.flatten(0, 1))
