"""Attention from projected queries, keys and values."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from residual_st.fairseq.layers.dropout import dropout

# Up to this number, three plain steps are faster on a CPU than torch's fused kernel (0.6 to 0.8 of the time from 100 positions on);
# with dropout, torch uses these steps too
LENGTH_TO_FUSE = 200


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(time, batch, width) as (batch, heads, time, width / heads), a view of the same memory."""
    return x.view(len(x), x.size(1), heads, -1).permute(1, 2, 0, 3)


def padding_mask(padding: Tensor, like: Tensor) -> Tensor:
    """A mask for `attention`, with the type of `like`, from padding (batch, time), True for positions to ignore."""
    return like.new_zeros(len(padding), 1, 1, padding.size(1)).masked_fill_(padding[:, None, None], float("-inf"))


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rate: float, need_weights: bool = False
) -> tuple[Tensor, Tensor | None]:
    """softmax(Q Kᵀ / √(width / heads) + mask) V by heads (Vaswani et al., arXiv 1706.03762, section 3.2).

    Args:
        queries: (batch, heads, time, width / heads).
        keys, values: (batch, heads, source, width / heads).
        mask: added to the scores, broadcast to (batch, heads, time, source), or None.
        rate: dropout rate of the attention weights.
        need_weights: whether to return the attention weights.

    Returns:
        (time, batch, width), the concatenated heads; and the weights before dropout (batch, heads, time, source), or None.
    """
    batch, heads, length, width = queries.shape
    if need_weights or (queries.device.type == "cpu" and (rate or keys.size(2) <= LENGTH_TO_FUSE)):
        queries, keys, values = (x.flatten(0, 1) for x in (queries, keys, values))
        scale = width**-0.5
        if mask is None:
            scores = torch.bmm(queries * scale, keys.mT)
        else:
            mask = mask[0] if len(mask) == 1 else mask.expand(batch, heads, -1, -1).flatten(0, 1)
            scores = torch.baddbmm(mask, queries, keys.mT, alpha=scale)
        weights = scores.softmax(-1)
        attended = torch.bmm(dropout(weights, rate), values)
        attended = attended.transpose(0, 1).reshape(length, batch, heads * width)
        return attended, weights.unflatten(0, (batch, heads)) if need_weights else None
    attended = scaled_dot_product_attention(queries, keys, values, mask, dropout_p=rate)
    return attended.permute(2, 0, 1, 3).reshape(length, batch, heads * width), None
