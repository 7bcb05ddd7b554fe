"""Common base of encoder and decoder layers: calls the matrices and avoids unnecessary work.

The stock layers read each projection's `.weight`, so that W would be composed and stored for the backward pass. They also use a
padding mask without padding, and copy the feed-forward activations for both ReLU and dropout.
"""

from collections.abc import Callable

import torch
from fairseq.modules.fairseq_dropout import FairseqDropout
from fairseq.modules.multihead_attention import MultiheadAttention
from torch import Tensor, nn
from torch.nn.functional import relu

from residual_st.fairseq.layers.attention import heads_of, padding_mask
from residual_st.fairseq.layers.dropout import dropout, relu_dropout_
from residual_st.sharing import ResidualLinear, linear_of, matrices


class ResidualTransformerLayer(nn.Module):
    """Mixin for a fairseq layer, with unchanged parameters."""

    # attention -> letters of its projections with the same input, which `compose_` joins to one matrix
    joint_projections = {"self_attn": "qkv"}

    is_composed = False

    # what fairseq's layers have
    normalize_before: bool
    fc1: nn.Module
    fc2: nn.Module
    activation_fn: Callable[[Tensor], Tensor]
    dropout_module: FairseqDropout
    activation_dropout_module: FairseqDropout

    def compose_(self) -> None:
        """Replace every weight's terms by the composed weight, and join projections of one input to one matrix. Irreversible."""
        for name, linear in list(matrices(self)):
            if isinstance(linear, ResidualLinear):
                self.set_submodule(name, linear.to_dense())
        for name, letters in self.joint_projections.items():
            attention = getattr(self, name)
            if attention is None:  # a language model's decoder has no source
                continue
            setattr(attention, f"{letters}_proj", stacked([getattr(attention, f"{letter}_proj") for letter in letters]))
            for letter in letters:
                delattr(attention, f"{letter}_proj")
        self.is_composed = True

    def _enter(self, x: Tensor, norm: nn.Module) -> Tensor:
        """The input of a branch: x (time, batch, width), normalised in pre-norm layers, as (time * batch, width)."""
        return (norm(x) if self.normalize_before else x).flatten(0, 1)

    def _leave(self, x: Tensor, y: Tensor, norm: nn.Module) -> Tensor:
        """`x + y` for the output y (time * batch, width) of a branch, normalised in post-norm layers."""
        y = dropout(y, rate_of(self.dropout_module))
        x = y.view_as(x) + x
        return x if self.normalize_before else norm(x)

    def _project(self, attention: MultiheadAttention, letters: str, x: Tensor, batch: int) -> list[Tensor]:
        """Queries, keys and values, or some of them, each (batch, heads, time, width / heads), for x (time * batch, width)."""
        if self.is_composed and len(letters) > 1:
            projected = getattr(attention, f"{letters}_proj")(x).chunk(len(letters), -1)
        else:
            projected = [getattr(attention, f"{letter}_proj")(x) for letter in letters]
        return [heads_of(y.view(-1, batch, y.size(-1)), attention.num_heads) for y in projected]

    def _feed_forward(self, x: Tensor) -> Tensor:
        rate = rate_of(self.activation_dropout_module)
        hidden = self.fc1(x)
        hidden = relu_dropout_(hidden, rate) if self.activation_fn is relu else dropout(self.activation_fn(hidden), rate)
        return self.fc2(hidden)


def stacked(linears: list[nn.Linear]) -> nn.Linear:
    """One layer with the concatenated outputs of several layers with the same input."""
    weight, bias = (torch.cat([getattr(linear, name) for linear in linears]) for name in ("weight", "bias"))
    return linear_of(weight, bias).train(linears[0].training)


def mask_of(padding: Tensor | None, like: Tensor) -> Tensor | None:
    """The mask for `attention` from a padding mask (batch, time), True for padding; None if nothing is padded.

    Padding is only checked on a CPU: on a GPU the check would synchronise, and a compiled graph would break here.
    """
    if padding is None or not (padding.device.type != "cpu" or torch.compiler.is_compiling() or padding.any()):
        return None
    return padding_mask(padding, like)


def rate_of(module: FairseqDropout | nn.Dropout) -> float:
    return module.p if module.training or getattr(module, "apply_during_inference", False) else 0.0
