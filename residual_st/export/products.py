"""The matrix products of one graph, in fp32 or int8, with every weight stored once however often it is used.

Nothing here composes `U + up @ down`: a runtime would fold it into one dense constant for each layer. A product goes term by term,
x U, then (x down) up, then the diagonal.
"""

import numpy as np
import spox.opset.ai.onnx.v21 as op
import torch
from spox import Var
from spox._future import initializer
from torch import Tensor, nn

from residual_st.export.constants import ints
from residual_st.sharing import ResidualLinear

PRECISIONS = ("fp32", "int8")
INT8_MAX = 127
_LEAST_SCALE = 2.0**-24  # of half precision


class Products:
    """What multiplies by the weights of a model.

    In int8 weights have one scale for each output, symmetric, and inputs one scale for the whole tensor, found when it is there
    (ONNX's DynamicQuantizeLinear). Biases, norms, diagonals and scales are stored in half precision and computed with in fp32.

    Args:
        precision: one of PRECISIONS.
    """

    def __init__(self, precision: str):
        self.precision = precision
        self._weights: dict[tuple, Var | tuple[Var, Var]] = {}
        self._quantized: dict[Var, tuple[Var, Var, Var]] = {}
        self._seen: list[Tensor] = []  # kept, so that no other tensor takes the memory that one is known by

    def constant(self, tensor: Tensor | None) -> Var | None:
        """A vector that is added or multiplied by element, one initializer for each tensor."""
        if tensor is None:
            return None
        key = self._key(tensor)
        if key not in self._weights:
            self._weights[key] = self._stored(tensor.detach().float().numpy())
        return self._weights[key]

    def multiply(self, x: Var, weight: Tensor) -> Var:
        """`x weightᵀ`: x (..., in), weight (out, in)."""
        if self.precision == "fp32":
            return op.matmul(x, self._transposed(weight))
        quantized, scale, zero = self._quantize(x)
        matrix, scales = self._int8(weight)
        product = op.cast(op.matmul_integer(quantized, matrix, zero), to=np.float32)
        return op.mul(product, op.mul(scale, scales))

    def rows(self, weight: Tensor, indices: Var) -> Var:
        """Rows of a weight (rows, width), which `multiply` uses, too: indices (...) -> (..., width)."""
        if self.precision == "fp32":
            columns = op.gather(self._transposed(weight), indices, axis=1)
        else:
            matrix, scales = self._int8(weight)
            columns = op.mul(op.cast(op.gather(matrix, indices, axis=1), to=np.float32), op.gather(scales, indices))
        return op.transpose(columns, perm=[1, 2, 0])

    def linear(self, x: Var, linear: nn.Linear | ResidualLinear) -> Var:
        """What the layer computes: x (..., in) -> (..., out)."""
        if not isinstance(linear, ResidualLinear):
            return self._add_bias(self.multiply(x, linear.weight), linear.bias)
        shared, up, down, diagonal = linear.all_terms
        if up is not None:
            up, down = self._balanced(up, down)
        terms = [] if shared is None else [self.multiply(x, shared)]
        if up is not None:
            terms.append(self.multiply(self.multiply(x, down), up))
        y = terms[0] if len(terms) == 1 else op.add(*terms)
        y = self._add_bias(y, linear.bias)
        return y if diagonal is None else op.add(y, self._diagonal(x, diagonal, linear))

    def norm(self, x: Var, norm: nn.LayerNorm) -> Var:
        return op.layer_normalization(x, self.constant(norm.weight), self.constant(norm.bias), axis=-1, epsilon=norm.eps)[0]

    def _add_bias(self, y: Var, bias: Tensor | None) -> Var:
        return y if bias is None else op.add(y, self.constant(bias))

    def _diagonal(self, x: Var, diagonal: Tensor, linear: ResidualLinear) -> Var:
        """`diag(diagonal) x`, (..., in) -> (..., out)."""
        length = len(diagonal)
        if linear.in_features > length:
            x = op.slice(x, ints(0), ints(length), ints(-1))
        y = op.mul(x, self.constant(diagonal))
        if linear.out_features > length:
            y = op.pad(y, ints(0, linear.out_features - length), axes=ints(-1))
        return y

    def _balanced(self, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        """The same product with columns of `up` of one length: an error in x down, which has one scale, counts alike in each."""
        if self.precision == "fp32":
            return up, down
        key = (*self._key(up), "balanced")
        if key not in self._weights:
            norms = up.detach().norm(dim=0).clamp_min(1e-12)
            self._weights[key] = (up.detach() / norms, down.detach() * norms[:, None])
        return self._weights[key]

    def _transposed(self, weight: Tensor) -> Var:
        key = (*self._key(weight), "transposed")
        if key not in self._weights:
            self._weights[key] = initializer(np.ascontiguousarray(weight.detach().float().numpy().T))
        return self._weights[key]

    def _int8(self, weight: Tensor) -> tuple[Var, Var]:
        """(in, out) as int8, and scales (out,)."""
        key = (*self._key(weight), "int8")
        if key not in self._weights:
            rounded, scales = quantized(weight.detach())
            self._weights[key] = (initializer(np.ascontiguousarray(rounded.numpy().T)), self._stored(scales.numpy()))
        return self._weights[key]

    def _stored(self, values: np.ndarray) -> Var:
        """fp32; in int8 the file has half precision, and the runtime casts it when it loads the file."""
        if self.precision == "fp32":
            return initializer(values.copy())
        return op.cast(initializer(values.astype(np.float16)), to=np.float32)

    def _key(self, tensor: Tensor) -> tuple:
        self._seen.append(tensor)
        return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()

    def _quantize(self, x: Var) -> tuple[Var, Var, Var]:
        """Once for each x, though several weights may multiply it."""
        if x not in self._quantized:
            self._quantized[x] = op.dynamic_quantize_linear(x)
        return self._quantized[x]


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (out, in) as int8, and the scale of each row, (out,), a number of half precision."""
    scales = (weight.float().abs().amax(1) / INT8_MAX).clamp_min(_LEAST_SCALE).half().float()
    return (weight.float() / scales[:, None]).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8), scales
