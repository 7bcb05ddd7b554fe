"""The matrix products of one graph, in fp32, int8 or int4, with every weight stored once however often it is used.

`U + up @ down` is never composed here: a runtime would fold it into one dense constant per layer. A product is a chain of sums:
bias, x U, (x down) up, diagonal. The time for short audio depends on the number of operations, and for long audio on the number of
passes over memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import spox.opset.ai.onnx.v21 as op
import torch
from spox import Var
from spox._future import initializer
from torch import Tensor, nn

from residual_st.export.constants import ints
from residual_st.export.quantization import block_size, multiply_in_4_bits, packed, quantized, quantized_in_blocks
from residual_st.sharing import Matrix, ResidualLinear, shape_of, weight_of

_Made = TypeVar("_Made")

LEAST_WIDTH = 32  # minimum of both dimensions of matrices stored in 4 bits


class Terms(NamedTuple):
    """The terms of `W = shared + up @ down + diag(diagonal)`, and the bias; None for a missing term."""

    shared: Tensor | None
    up: Tensor | None
    down: Tensor | None
    diagonal: Tensor | None
    bias: Tensor | None

    @property
    def low_rank(self) -> tuple[Tensor, Tensor] | None:
        """`up` and `down`, which come together."""
        return None if self.up is None or self.down is None else (self.up, self.down)


class Products:
    """Products with the weights of a model. x is always (rows, in), and the result (rows, out).

    In int8, weights have one symmetric scale per output, and inputs one scale per tensor, computed at run time (ONNX's
    DynamicQuantizeLinear). Biases, norms, diagonals and scales are stored in half precision and computed in fp32.

    In int4, matrices of at least `LEAST_WIDTH` rows and columns have 4 bits with one scale per 32 (or 16) weights of a row, and
    inputs stay in fp32. The rest, including the embedding, is as in int8.

    Args:
        precision: one of `residual_st.export.PRECISIONS`.
    """

    def __init__(self, precision: str):
        self.precision = precision
        self._made: dict[tuple, Any] = {}  # by the tensors that it was made from
        self._quantized: dict[Var, tuple[Var, Var, Var]] = {}
        self._seen: list[Tensor] = []  # kept alive, so that no other tensor gets the same address

    def linear(self, x: Var, linear: Matrix) -> Var:
        """The output of a linear layer."""
        terms = self._terms_of(linear)
        y = self.constant(terms.bias)
        if terms.shared is not None:
            y = self.multiply(x, terms.shared, y)
        if terms.low_rank is not None:
            up, down = terms.low_rank
            y = self.multiply(self.multiply(x, down), up, y)
        if y is None:
            raise ValueError("a linear layer without a shared weight or a residual")
        return y if terms.diagonal is None else op.add(y, self._diagonal(x, terms.diagonal, linear))

    def side_by_side(self, x: Var, linears: list[Matrix]) -> Var:
        """Outputs of several linear layers with the same input: (rows, layers, out), as one product if they have the same terms."""
        all_terms = [self._terms_of(linear) for linear in linears]
        kinds = {tuple(None if term is None else term.shape for term in terms) for terms in all_terms}
        count, (width, width_in) = len(linears), shape_of(linears[0])
        if len(kinds) > 1 or all_terms[0].shared is None or all_terms[0].diagonal is not None and width_in != width:
            return op.concat([op.unsqueeze(self.linear(x, linear), ints(1)) for linear in linears], axis=1)
        shared, ups, downs, diagonals, biases = ([term for term in each if term is not None] for each in zip(*all_terms))
        y = self.multiply(x, self._joined(shared), self.constant(self._joined(biases)) if biases else None)
        if ups:
            y = self._multiply_each(self.multiply(x, self._joined(downs)), ups, y)
        y = op.reshape(y, ints(-1, count, width))
        if not diagonals:
            return y
        rows = op.reshape(self.constant(self._joined(diagonals)), ints(count, width))
        return op.add(y, op.mul(op.unsqueeze(x, ints(1)), rows))

    def feed_forward(self, x: Var, first: Matrix, activation: Callable[[Var], Var], second: Matrix) -> Var:
        """`second(activation(first(x)))`.

        Diagonals only affect the first inner units. These are computed separately, so that the others need not be copied for the
        addition.
        """
        one, two = self._terms_of(first), self._terms_of(second)
        if (
            one.shared is None or one.low_rank is None or one.diagonal is None
            or two.shared is None or two.low_rank is None or two.diagonal is None
            or len(one.diagonal) != len(two.diagonal) or not len(one.diagonal) < shape_of(first)[0]
        ):  # fmt: skip
            return self.linear(activation(self.linear(x, first)), second)
        (up, down), (second_up, second_down) = one.low_rank, two.low_rank
        length, hidden = len(one.diagonal), self.multiply(x, down)
        head, tail = slice(0, length), slice(length, None)
        between = []
        for part in (head, tail):
            y = self.multiply(x, one.shared[part], None if one.bias is None else self.constant(one.bias[part]))
            between.append(self.multiply(hidden, up[part], y))
        between[0] = op.add(between[0], op.mul(x, self.constant(one.diagonal)))
        some, rest = (activation(y) for y in between)
        z = self.multiply(some, two.shared[:, head], self.constant(two.bias))
        units = self.multiply(some, second_down[:, head])
        z = self.multiply(rest, two.shared[:, tail], z)
        units = self.multiply(rest, second_down[:, tail], units)
        return op.add(self.multiply(units, second_up, z), op.mul(some, self.constant(two.diagonal)))

    def multiply(self, x: Var, weight: Tensor, onto: Var | None = None) -> Var:
        """`onto + x weightᵀ`: weight (out, in), onto (rows, out), (out,) or nothing."""
        if self.precision == "fp32":
            return op.gemm(x, self._transposed(weight), onto)
        if self._has_4_bits(weight):
            product = multiply_in_4_bits(x, *self._int4(weight), (weight.size(0), weight.size(1)))
            return product if onto is None else op.add(product, onto)
        return self._multiply_int8(x, *self._int8(weight), onto)

    def rows(self, weight: Tensor, indices: Var) -> Var:
        """Rows of a weight (rows, width), which `multiply` may use too: indices (n,) -> (n, width)."""
        if self.precision == "fp32":
            columns = op.gather(self._transposed(weight), indices, axis=1)
        else:
            matrix, scales = self._int8(weight)
            columns = op.mul(op.cast(op.gather(matrix, indices, axis=1), to=np.float32), op.gather(scales, indices))
        return op.transpose(columns, perm=[1, 0])

    def norm(self, x: Var, norm: nn.LayerNorm) -> Var:
        return op.layer_normalization(x, self.constant(norm.weight), self.constant(norm.bias), axis=-1, epsilon=norm.eps)[0]

    @overload
    def constant(self, tensor: Tensor) -> Var: ...

    @overload
    def constant(self, tensor: Tensor | None) -> Var | None: ...

    def constant(self, tensor: Tensor | None) -> Var | None:
        """A small tensor for elementwise operations. It is stored in half precision unless matrices are in fp32."""
        if tensor is None:
            return None
        return self._once("vector", [tensor], lambda: self._stored(tensor.detach().float().numpy()))

    def _diagonal(self, x: Var, diagonal: Tensor, linear: Matrix) -> Var:
        """`diag(diagonal) x`."""
        length, (width, width_in) = len(diagonal), shape_of(linear)
        if width_in > length:
            x = op.slice(x, ints(0), ints(length), ints(-1))
        y = op.mul(x, self.constant(diagonal))
        if width > length:
            y = op.pad(y, ints(0, width - length), axes=ints(-1))
        return y

    def _multiply_each(self, x: Var, weights: list[Tensor], onto: Var) -> Var:
        """Parts of x times one weight each, concatenated. At load time, the runtime builds one block-diagonal matrix of all."""
        is_fp32 = self.precision == "fp32"
        matrices = [self._transposed(weight) if is_fp32 else self._int8(weight)[0] for weight in weights]
        width, last = len(weights[0]), len(weights) - 1
        wide = [op.pad(matrix, ints(0, place * width, 0, (last - place) * width)) for place, matrix in enumerate(matrices)]
        matrix = op.concat(wide, axis=0)
        if is_fp32:
            return op.gemm(x, matrix, onto)
        return self._multiply_int8(x, matrix, op.concat([self._int8(weight)[1] for weight in weights], axis=0), onto)

    def _multiply_int8(self, x: Var, matrix: Var, scales: Var, onto: Var | None) -> Var:
        if x not in self._quantized:  # once per x, even if several weights multiply it
            self._quantized[x] = op.dynamic_quantize_linear(x)
        quantized, scale, zero = self._quantized[x]
        product = op.mul(op.cast(op.matmul_integer(quantized, matrix, zero), to=np.float32), op.mul(scale, scales))
        return product if onto is None else op.add(product, onto)

    def _terms_of(self, linear: Matrix) -> Terms:
        if not isinstance(linear, ResidualLinear):
            return Terms(weight_of(linear), None, None, None, linear.bias)
        shared, up, down, diagonal = linear.all_terms
        if up is not None and down is not None and self.precision != "fp32":
            up, down = self._once("spread", [up, down], partial(_spread, up.detach(), down.detach()))
        return Terms(shared, up, down, diagonal, linear.bias)

    def _joined(self, tensors: list[Tensor]) -> Tensor:
        return self._once("joined", tensors, lambda: torch.cat([tensor.detach() for tensor in tensors]))

    def _transposed(self, weight: Tensor) -> Var:
        return self._once("transposed", [weight], lambda: initializer(np.ascontiguousarray(weight.detach().float().numpy().T)))

    def _int8(self, weight: Tensor) -> tuple[Var, Var]:
        """(in, out) as int8, and scales (out,)."""

        def make():
            rounded, scales = quantized(weight.detach())
            return initializer(np.ascontiguousarray(rounded.numpy().T)), self._stored(scales.numpy())

        return self._once("int8", [weight], make)

    def _int4(self, weight: Tensor) -> tuple[Var, Var]:
        """(out, blocks, bytes), and scales (out * blocks,)."""

        def make():
            integers, scales = quantized_in_blocks(weight.detach())
            return initializer(packed(integers)), self._stored(scales.flatten().numpy())

        return self._once("int4", [weight], make)

    def _has_4_bits(self, weight: Tensor) -> bool:
        """Whether a weight is stored in 4 bits; not if `rows` reads it, which stores it in int8."""
        wide = min(weight.shape) >= LEAST_WIDTH and block_size(weight.size(1)) > 0
        return self.precision == "int4" and wide and self._key("int8", [weight]) not in self._made

    def _stored(self, values: np.ndarray) -> Var:
        """Values in fp32, or stored in half precision, which the runtime casts when it loads the file."""
        if self.precision == "fp32":
            return initializer(values.copy())
        return op.cast(initializer(values.astype(np.float16)), to=np.float32)

    def _once(self, what: str, tensors: list[Tensor], make: Callable[[], _Made]) -> _Made:
        """The result of `make` for these tensors, cached."""
        key = self._key(what, tensors)
        if key not in self._made:
            self._seen += tensors
            self._made[key] = make()
        return self._made[key]

    def _key(self, what: str, tensors: list[Tensor]) -> tuple:
        return (what, *((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) for tensor in tensors))


def _spread(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with a `down` of randomly rotated orthonormal rows, so that all values of x down have similar sizes.

    In int8 these values share one scale. After factorizing a trained matrix, a few of them are much larger than the others, which
    that scale would round to 0. A random rotation evens out the sizes (QuaRot, arXiv 2404.00456); `up` undoes it at no cost.
    """
    orthonormal, triangular = torch.linalg.qr(down.double().T)  # down = triangularᵀ orthonormalᵀ
    generator = torch.Generator().manual_seed(0)  # reproducible file
    rank = triangular.size(0)
    rotation, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator, dtype=torch.float64))
    return (up.double() @ triangular.T @ rotation).to(up.dtype), (rotation.T @ orthonormal.T).to(down.dtype).contiguous()
