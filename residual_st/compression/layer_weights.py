"""The matrices of one layer for compression, each with the metric of its errors."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from residual_st.compression.basis import Basis, composition
from residual_st.sharing import matrices, weight_of

# fraction of the mean diagonal that is added to second moments, so that errors in unseen directions cost something. Gradients are
# exact only for small errors, so their moments are damped more.
INPUT_DAMPING, OUTPUT_DAMPING = 1e-3, 0.1
LEAST_MOMENT = 1e-20  # for a matrix that is never used; it and its inverse are in the range of float32


@dataclass(frozen=True)
class Metric:
    """The weighted squared norm of an error E of a matrix: `scale * tr(G E S Eᵀ)`. This is the compression objective.

    `inputs` S (in, in) are the centred second moments of the matrix's inputs, `outputs` G (out, out) those of the loss's gradient
    with respect to its outputs: the two factors of K-FAC (Martens & Grosse, arXiv 1503.05671). With them, the error of every matrix
    estimates the increase of the loss, so that errors are comparable. None stands for the identity.
    """

    inputs: Tensor | None = None
    outputs: Tensor | None = None
    scale: float = 1.0

    def weigh(self, error: Tensor) -> Tensor:
        """`scale * G E S`, half the gradient of the squared norm."""
        if self.outputs is not None:
            error = self.outputs @ error
        if self.inputs is not None:
            error = error @ self.inputs
        return self.scale * error

    def squared_norm(self, error: Tensor) -> float:
        return (self.weigh(error) * error).sum().item()

    def whiten(self, error: Tensor) -> Tensor:
        """An error in coordinates where the weighted norm is sqrt(scale) times the Frobenius norm, in the error's precision.

        The Cholesky factors are always computed in float64: these moments are often too ill-conditioned for float32.
        """
        inputs, outputs = self._roots_in(error.dtype)
        if outputs is not None:
            error = outputs.T @ error
        return error if inputs is None else error @ inputs

    def whiten_rows(self, down: Tensor) -> Tensor:
        """Rows of a low-rank factor (rank, in) in whitened coordinates."""
        inputs, _ = self._roots_in(down.dtype)
        return down if inputs is None else down @ inputs

    def colour(self, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of a whitened matrix in the original coordinates."""
        if self.output_root is not None:
            up = torch.linalg.solve_triangular(self.output_root.T, up, upper=True)
        if self.input_root is not None:
            down = torch.linalg.solve_triangular(self.input_root, down, upper=False, left=False)
        return up, down

    def solve_inputs(self, right: Tensor) -> Tensor:
        """The matrix X (out, in) with `X S = right`."""
        return right if self.input_root is None else torch.cholesky_solve(right.T, self.input_root).T

    @cached_property
    def narrow(self) -> "Metric":
        """The metric in float32, for weighing only: in float32 it may have no Cholesky factors."""
        return Metric(_narrowed(self.inputs), _narrowed(self.outputs), self.scale)

    @cached_property
    def diagonal_root(self) -> Tensor | None:
        """The Cholesky factor of `G ∘ S` on the rows and columns of the main diagonal; None unless both are known."""
        if self.outputs is None or self.inputs is None:
            return None
        length = min(len(self.outputs), len(self.inputs))
        root: Tensor = torch.linalg.cholesky(self.outputs[:length, :length] * self.inputs[:length, :length])
        return root

    @cached_property
    def input_root(self) -> Tensor | None:
        """The Cholesky factor of `inputs`."""
        return None if self.inputs is None else torch.linalg.cholesky(self.inputs)

    @cached_property
    def output_root(self) -> Tensor | None:
        """The Cholesky factor of `outputs`."""
        return None if self.outputs is None else torch.linalg.cholesky(self.outputs)

    def _roots_in(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        return (self.input_root, self.output_root) if dtype == torch.float64 else self._narrow_roots

    @cached_property
    def _narrow_roots(self) -> tuple[Tensor | None, Tensor | None]:
        return _narrowed(self.input_root), _narrowed(self.output_root)


def _narrowed(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.float()


def damped(moments: Tensor, share: float = INPUT_DAMPING) -> Tensor:
    """Invertible second moments: with `share` of the mean diagonal added to the diagonal."""
    result = moments.clone()
    diagonal = result.diagonal()
    diagonal += share * diagonal.mean().clamp_min(LEAST_MOMENT)
    return result


@dataclass
class MatrixWeights:
    """One matrix of one layer.

    Attributes:
        exact: the weight (out, in), in a precision that rounds nothing: that of the model, until units are renamed.
        bias: (out,) or None, float64.
        input_mean: mean of its inputs (in,); None if unknown.
        trained_metric: makes the metric of its errors, as the trained layer names its units.
        input_basis, output_basis: how its inputs and outputs have been renamed since; None if they have not.
    """

    exact: Tensor
    bias: Tensor | None
    input_mean: Tensor | None = None
    trained_metric: Callable[[], Metric] = Metric
    input_basis: Basis | None = None
    output_basis: Basis | None = None

    @property
    def weight(self) -> Tensor:
        """In float64, to compute with."""
        return self.exact.double()

    @property
    def metric(self) -> Metric:
        """The metric of errors. It is recomputed for each use and not cached, since with its roots it is many times larger than the
        matrix.
        """
        metric = self.trained_metric()
        inputs, outputs = metric.inputs, metric.outputs
        if inputs is not None and self.input_basis is not None:
            inputs = self.input_basis.vectors(inputs)
        if outputs is not None and self.output_basis is not None:
            outputs = self.output_basis.covectors(outputs)
        return replace(metric, inputs=inputs, outputs=outputs)

    def with_outputs(self, basis: Basis) -> "MatrixWeights":
        """The same matrix where its outputs y are called `basis(y)`."""
        bias = None if self.bias is None else basis.rows(self.bias)
        renamed = composition(basis, self.output_basis)
        return replace(self, exact=basis.rows(self.weight), bias=bias, output_basis=renamed)

    def with_inputs(self, basis: Basis) -> "MatrixWeights":
        """The same matrix where its inputs x are called `basis(x)`."""
        input_mean = None if self.input_mean is None else basis.rows(self.input_mean)
        renamed = composition(basis, self.input_basis)
        return replace(self, exact=basis.columns(self.weight), input_mean=input_mean, input_basis=renamed)


LayerWeights = dict[str, MatrixWeights]  # by the matrix's name in the layer


def read_layer(layer: nn.Module) -> LayerWeights:
    """Copy a layer's matrices. Their names are those of `residual_st.sharing.matrices`."""
    with torch.no_grad():
        return {
            name: MatrixWeights(_copied(weight_of(matrix)), None if matrix.bias is None else _copied(matrix.bias).double())
            for name, matrix in matrices(layer)
        }


def _copied(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", copy=True)


def write_layer(layer: nn.Module, weights: LayerWeights) -> None:
    """Copy matrices back into a layer that does not share."""
    with torch.no_grad():
        for name, matrix in matrices(layer):
            weight, bias = weights[name].exact, weights[name].bias
            weight_of(matrix).copy_(weight)
            if matrix.bias is not None and bias is not None:
                matrix.bias.copy_(bias)
