"""fairseq's decoder layer, for shared matrices."""

from fairseq.modules.multihead_attention import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor, cat, nn

from residual_st.fairseq.layers.attention import attention
from residual_st.fairseq.layers.layer import ResidualTransformerLayer, mask_of, rate_of

Cache = dict[str, dict[str, Tensor | None]]  # fairseq's incremental state, which its attention modules reorder


class ResidualTransformerDecoderLayer(ResidualTransformerLayer, TransformerDecoderLayerBase):
    """`TransformerDecoderLayerBase` with the same parameters, and the same outputs up to rounding and dropout's draws."""

    joint_projections = {"self_attn": "qkv", "encoder_attn": "kv"}

    self_attn: MultiheadAttention
    self_attn_layer_norm: nn.LayerNorm
    final_layer_norm: nn.LayerNorm
    encoder_attn: MultiheadAttention | None  # None in a language model
    encoder_attn_layer_norm: nn.LayerNorm

    def forward(
        self,
        x: Tensor,
        encoder_out: Tensor | None = None,
        encoder_padding_mask: Tensor | None = None,
        incremental_state: Cache | None = None,
        *,
        self_attn_mask: Tensor | None = None,
        self_attn_padding_mask: Tensor | None = None,
        need_attn: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, None]:
        """(time, batch, width) -> the same shape, and the weights of encoder attention if needed.

        Args:
            encoder_out: (source, batch, encoder width); None for a decoder without a source.
            encoder_padding_mask: (batch, source), True for padding.
            incremental_state: if x is one step of each hypothesis, the keys and values of earlier steps.
            self_attn_mask: (time, time), added to the scores.
            self_attn_padding_mask: (batch, time), True for padding; hypotheses in an `incremental_state` have none.
            need_attn, need_head_weights: whether to return weights, as the mean over heads (batch, time, source), or per head
                (heads, batch, time, source).
        """
        y = self._enter(x, self.self_attn_layer_norm)
        mask = None if incremental_state is not None else mask_of(self_attn_padding_mask, x)
        if self_attn_mask is not None:
            mask = self_attn_mask[None, None] if mask is None else mask + self_attn_mask
        y = self._attend_to_words(y, x.size(1), mask, incremental_state)
        x = self._leave(x, y, self.self_attn_layer_norm)

        weights = None
        if self.encoder_attn is not None and encoder_out is not None:
            y = self._enter(x, self.encoder_attn_layer_norm)
            mask, need_weights = mask_of(encoder_padding_mask, x), need_attn or need_head_weights
            y, weights = self._attend_to_source(self.encoder_attn, y, x.size(1), encoder_out, mask, incremental_state, need_weights)
            x = self._leave(x, y, self.encoder_attn_layer_norm)

        y = self._feed_forward(self._enter(x, self.final_layer_norm))
        x = self._leave(x, y, self.final_layer_norm)
        if weights is not None:
            weights = weights.transpose(0, 1) if need_head_weights else weights.mean(1)
        return x, weights, None

    def _attend_to_words(self, x: Tensor, batch: int, mask: Tensor | None, state: Cache | None) -> Tensor:
        queries, keys, values = self._project(self.self_attn, "qkv", x, batch)
        if state is not None:
            cached = _cached(self.self_attn, state)
            if cached:
                keys, values = (cat(pair, dim=2) for pair in zip(cached, (keys, values)))
            _cache(self.self_attn, state, keys, values)
        attended, _ = attention(queries, keys, values, mask, rate_of(self.self_attn.dropout_module))
        return self.self_attn.out_proj(attended.flatten(0, 1))

    def _attend_to_source(
        self,
        module: MultiheadAttention,
        x: Tensor,
        batch: int,
        source: Tensor,
        mask: Tensor | None,
        state: Cache | None,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        (queries,) = self._project(module, "q", x, batch)
        cached = None if state is None else _cached(module, state)
        if cached:
            keys, values = cached
        else:
            keys, values = self._project(module, "kv", source.flatten(0, 1), batch)
            if state is not None:  # read at every step, which is faster if each head's are contiguous
                keys, values = keys.contiguous(), values.contiguous()
                _cache(module, state, keys, values)
        attended, weights = attention(queries, keys, values, mask, rate_of(module.dropout_module), need_weights)
        return module.out_proj(attended.flatten(0, 1)), weights


def _cached(module: MultiheadAttention, state: Cache) -> tuple[Tensor, Tensor] | None:
    """Cached keys and values (batch, heads, time, width / heads), under fairseq's names."""
    buffer = module._get_input_buffer(state)
    return (buffer["prev_key"], buffer["prev_value"]) if buffer else None


def _cache(module: MultiheadAttention, state: Cache, keys: Tensor, values: Tensor) -> None:
    module._set_input_buffer(state, {"prev_key": keys, "prev_value": values})
