"""fairseq's encoder layer with a forward pass that calls its matrices and wastes nothing.

The stock layer reads each projection's `.weight`, which would have W composed and kept for the backward pass, attends under a
padding mask even where nothing is padded, and copies the feed-forward activations for each of ReLU and dropout.
"""

from collections.abc import Callable

import torch
from fairseq.modules.fairseq_dropout import FairseqDropout
from fairseq.modules.transformer_layer import TransformerEncoderLayer
from torch import Tensor, nn
from torch.nn.functional import relu

from residual_st.models.attention import self_attention
from residual_st.models.dropout import dropout, relu_dropout_
from residual_st.sharing import ResidualLinear, linear_of, matrices


class ResidualTransformerEncoderLayer(TransformerEncoderLayer):
    """`TransformerEncoderLayer`: same parameters, and same outputs up to rounding. Which elements dropout hits differs."""

    is_composed = False

    def compose_(self) -> None:
        """Replace the terms of every weight by the weight, and queries, keys and values by one matrix. It cannot be undone."""
        for name, linear in list(matrices(self)):
            if isinstance(linear, ResidualLinear):
                self.set_submodule(name, linear.to_linear())
        attention = self.self_attn
        attention.qkv_proj = stacked([attention.q_proj, attention.k_proj, attention.v_proj])
        del attention.q_proj, attention.k_proj, attention.v_proj
        self.is_composed = True

    def forward(self, x: Tensor, encoder_padding_mask: Tensor | None, attn_mask: Tensor | None = None) -> Tensor:
        """(time, batch, width) -> (time, batch, width); the mask is (batch, time), True for padding."""
        if attn_mask is not None:
            return super().forward(x, encoder_padding_mask, attn_mask)
        x = self._skip(x, self.self_attn_layer_norm, lambda y: self._attend(y, x.size(1), encoder_padding_mask))
        return self._skip(x, self.final_layer_norm, self._feed_forward)

    def _skip(self, x: Tensor, norm: nn.Module, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`x + function(x)`, normalised before or after. The function works on (time * batch, width)."""
        y = norm(x) if self.normalize_before else x
        y = dropout(function(y.flatten(0, 1)), _rate(self.dropout_module))
        x = y.view_as(x) + x
        return x if self.normalize_before else norm(x)

    def _attend(self, x: Tensor, batch: int, padding: Tensor | None) -> Tensor:
        attention = self.self_attn
        if self.is_composed:
            projected = attention.qkv_proj(x).chunk(3, -1)
        else:
            projected = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
        if padding is not None and not _may_hold_padding(padding):
            padding = None
        queries, keys, values = (y.view(-1, batch, y.size(-1)) for y in projected)
        attended = self_attention(queries, keys, values, attention.num_heads, padding, _rate(attention.dropout_module))
        return attention.out_proj(attended.flatten(0, 1))

    def _feed_forward(self, x: Tensor) -> Tensor:
        rate = _rate(self.activation_dropout_module)
        hidden = self.fc1(x)
        hidden = relu_dropout_(hidden, rate) if self.activation_fn is relu else dropout(self.activation_fn(hidden), rate)
        return self.fc2(hidden)


def stacked(linears: list[nn.Linear]) -> nn.Linear:
    """One layer that computes what several of the same input do, side by side."""
    weight, bias = (torch.cat([getattr(linear, name) for linear in linears]) for name in ("weight", "bias"))
    return linear_of(weight, bias).train(linears[0].training)


def _may_hold_padding(padding: Tensor) -> bool:
    """Asked on a CPU only: a GPU would have to finish its work first, and a compiled graph would break here."""
    return padding.device.type != "cpu" or torch.compiler.is_compiling() or bool(padding.any())


def _rate(module: FairseqDropout) -> float:
    return module.p if module.training or module.apply_during_inference else 0.0
