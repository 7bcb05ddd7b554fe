"""Self-attention from projected queries, keys and values."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from residual_st.models.dropout import dropout

# Up to here three plain steps take less time on a CPU than torch's fused kernel, 0.6 to 0.8 of it from 100 positions on; and with
# dropout torch takes those steps too
LENGTH_TO_FUSE = 200


def self_attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int, padding: Tensor | None, rate: float) -> Tensor:
    """softmax(Q Kᵀ / √(width / heads)) V by heads (Vaswani et al., arXiv 1706.03762, section 3.2).

    Args:
        queries, keys, values: (time, batch, width).
        heads: a divisor of the width.
        padding: (batch, time), True where a position is not to be attended to, or None.
        rate: dropout of the attention weights.

    Returns:
        (time, batch, width), the heads side by side.
    """
    length, batch, width = queries.shape
    mask = None
    if padding is not None:
        mask = queries.new_zeros(batch, 1, 1, length).masked_fill_(padding[:, None, None], float("-inf"))
    if queries.device.type == "cpu" and (rate or length <= LENGTH_TO_FUSE):
        queries, keys, values = (x.reshape(length, batch * heads, -1).transpose(0, 1) for x in (queries, keys, values))
        scale = queries.size(-1) ** -0.5
        if mask is None:
            scores = torch.bmm(queries * scale, keys.mT)
        else:
            mask = mask.expand(batch, heads, 1, length).reshape(batch * heads, 1, length)
            scores = torch.baddbmm(mask, queries, keys.mT, alpha=scale)
        attended = torch.bmm(dropout(scores.softmax(-1), rate), values)
        return attended.transpose(0, 1).reshape(length, batch, width)
    queries, keys, values = (x.view(length, batch, heads, -1).permute(1, 2, 0, 3) for x in (queries, keys, values))
    attended = scaled_dot_product_attention(queries, keys, values, mask, dropout_p=rate)
    return attended.permute(2, 0, 1, 3).reshape(length, batch, width)
