"""Strided convolutions over time, as one matrix product with windows."""

import spox.opset.ai.onnx.v21 as op
from spox import Var
from torch import nn

from residual_st.compat import padding_of
from residual_st.export.constants import ints
from residual_st.export.products import Products


def convolved(x: Var, conv: nn.Conv1d, products: Products) -> Var:
    """(batch, time, in) -> (batch, shorter time, out)"""
    return convolved_inside(op.pad(x, ints(padding_of(conv), padding_of(conv)), axes=ints(1)), conv, products)


def convolved_inside(x: Var, conv: nn.Conv1d, products: Products) -> Var:
    """Without padding."""
    (size,), (stride,) = conv.kernel_size, conv.stride
    last = op.sub(op.shape(x, start=1, end=2), ints(size - 1))  # after the first frame of the last window
    taps = [op.slice(x, ints(tap), op.add(last, ints(tap)), ints(1), ints(stride)) for tap in range(size)]
    windows = op.concat(taps, axis=2)
    weight = conv.weight.detach().transpose(1, 2).flatten(1)  # (out, size * in)
    y = products.multiply(op.reshape(windows, ints(-1, weight.size(1))), weight, products.constant(conv.bias))
    return op.reshape(y, op.concat([op.shape(windows, start=0, end=2), ints(-1)], axis=0))
