"""Weights in 8 and 4 bits, and the product with 4-bit weights."""

from dataclasses import dataclass

import numpy as np
import torch
from spox import Tensor as TensorType
from spox import Type, Var
from spox._attributes import AttrInt64
from spox._fields import BaseAttributes, BaseInputs, BaseOutputs
from spox._node import Node, OpType
from spox._var import _VarInfo
from torch import Tensor

INT8_MAX = 127
INT4_MIN, INT4_MAX = -8, 7
_LEAST_SCALE = 2.0**-24  # smallest scale in half precision
_SHARES = torch.linspace(0.7, 1.0, 7)  # fractions of a block's largest weight that are tried for the value -8


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (out, in) as int8, and scales per row (out,), representable in half precision."""
    scales = (weight.float().abs().amax(1) / INT8_MAX).clamp_min(_LEAST_SCALE).half().float()
    return (weight.float() / scales[:, None]).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8), scales


def block_size(width: int) -> int:
    """Number of weights per scale in 4 bits for rows of that width; 0 if the width is not a multiple of it."""
    return next((size for size in (32, 16) if width % size == 0), 0)


def quantized_in_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (out, in) as 4-bit integers (out, blocks, size), and scales (out, blocks), representable in half precision.

    Several scales are tried per block; the one with the least squared error is used. Negative scales map the largest weight to -8.
    """
    blocks = weight.float().unflatten(1, (-1, block_size(weight.size(1))))
    largest = blocks.gather(2, blocks.abs().argmax(2, keepdim=True))  # with its sign
    scales = (largest / INT4_MIN * _SHARES).half().float()
    scales = torch.where(scales == 0, _LEAST_SCALE, scales)[..., None]  # (out, blocks, shares, 1)
    rounded = (blocks[:, :, None] / scales).round().clamp(INT4_MIN, INT4_MAX)
    best = (rounded * scales - blocks[:, :, None]).square().sum(3).argmin(2)[:, :, None, None]
    chosen = rounded.take_along_dim(best, 2).squeeze(2).to(torch.int8)
    return chosen, scales.take_along_dim(best, 2)[:, :, 0, 0]


def packed(integers: Tensor) -> np.ndarray:
    """4-bit integers (out, blocks, size) in onnxruntime's format: two per byte, the first in the low bits, offset 8."""
    shifted = (integers - INT4_MIN).to(torch.uint8)
    return (shifted[..., 0::2] | shifted[..., 1::2] << 4).numpy()


def multiply_in_4_bits(x: Var, weight: Var, scales: Var, shape: tuple[int, int]) -> Var:
    """x (rows, in) times a `packed` weight of shape (out, in) -> (rows, out). `scales` is flat."""
    width_out, width_in = shape
    numbers = {"K": width_in, "N": width_out, "bits": 4, "block_size": block_size(width_in)}
    attributes = _MatMulNBits.Attributes(*(AttrInt64(value, name) for name, value in numbers.items()))
    inputs = _MatMulNBits.Inputs(x._var_info, weight._var_info, scales._var_info)
    return _MatMulNBits(attributes, inputs).get_output_vars(input_prop_values={}).flatten_vars()["Y"]


class _MatMulNBits(Node):
    """onnxruntime's operator MatMulNBits, which is not in ONNX. The runtime stores a weight once for all its products."""

    @dataclass
    class Attributes(BaseAttributes):
        K: AttrInt64
        N: AttrInt64
        bits: AttrInt64
        block_size: AttrInt64

    @dataclass
    class Inputs(BaseInputs):
        A: _VarInfo
        B: _VarInfo
        scales: _VarInfo

    @dataclass
    class Outputs(BaseOutputs):
        Y: _VarInfo

    op_type = OpType("MatMulNBits", "com.microsoft", 1)
    attrs: Attributes

    def infer_output_types(self, input_prop_values) -> dict[str, Type]:
        return {"Y": TensorType(np.float32, (None, self.attrs.N.value))}
