"""Sums over positions for second moments: in float32, once per tensor, half of each symmetric matrix, on disk when complete."""

import math
import os
import tempfile
import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from residual_st.compression.layer_weights import OUTPUT_DAMPING, Metric, damped
from residual_st.errors import InputError
from residual_st.sharing import Matrix, shape_of


class SquareSum:
    """`Σ rowsᵀ rows` in float32, or float64 for float64 rows. Only blocks on and above the diagonal are stored (symmetry).

    The rounding error of a sum over N batches is at most N times 6e-8 of the diagonal; a metric adds 1,000 times as much to the
    diagonal (`INPUT_DAMPING`).
    """

    BLOCK = 128  # columns per block: larger blocks compute more redundant values, smaller ones are slower

    def __init__(self, size: int, device: torch.device):
        self.size = size
        starts = range(0, size, self.BLOCK)
        # of the strips on and right of the diagonal
        self._shapes = [(min(self.BLOCK, size - start), size - start) for start in starts]
        self._stored: StoredTensor | None = None  # where the values are when complete
        self._values = torch.zeros(sum(map(math.prod, self._shapes)), device=device)

    def add(self, rows: Tensor) -> None:
        """Add rows (positions, size)."""
        self._values = self._values.to(rows.dtype)
        for strip in self._strips(self._values):
            right = rows[:, -strip.shape[1] :]
            strip.addmm_(right[:, : len(strip)].T, right)

    def store(self, file: "TensorFile") -> None:
        """Move the sum to a file. No more rows can be added."""
        if self._stored is None:
            self._stored, self._values = file.stored(self._values), torch.empty(0)

    def total(self) -> Tensor:
        """(size, size), in float64, on the CPU."""
        total = torch.empty(self.size, self.size, dtype=torch.float64)
        start = 0
        for strip in self._strips(self._values if self._stored is None else self._stored.read()):
            end = start + len(strip)
            corner, rest = strip[:, : len(strip)], strip[:, len(strip) :]
            total[start:end, start:end] = corner.triu() + corner.triu(1).T
            total[start:end, end:] = rest
            total[end:, start:end] = rest.T
            start = end
        return total

    def _strips(self, values: Tensor) -> list[Tensor]:
        parts = values.split([rows * columns for rows, columns in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes)]

    @property
    def is_finite(self) -> bool:
        return bool(self._values.isfinite().all())


class TensorFile:
    """A temporary file of tensors, deleted when no tensor in it is referenced any more."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, closed below
        weakref.finalize(self, self._file.close)

    def stored(self, tensor: Tensor) -> "StoredTensor":
        """Append a tensor."""
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(tensor.cpu().contiguous().numpy().data)
        return StoredTensor(self, offset, tensor.shape, tensor.dtype)

    def read_into(self, tensor: Tensor, offset: int) -> None:
        self._file.seek(offset)
        self._file.readinto(tensor.numpy().data)


class StoredTensor(NamedTuple):
    """Reference to a tensor in a file."""

    file: TensorFile
    offset: int
    shape: torch.Size
    dtype: torch.dtype

    def read(self) -> Tensor:
        """A copy of the tensor on the CPU."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.file.read_into(tensor, self.offset)
        return tensor


class InputMoments:
    """Sums over the positions of one tensor, the input of one or several matrices.

    Values are relative to the mean of the first batch: if they hardly vary, the mean of squares minus the square of the mean would
    be dominated by rounding errors.
    """

    def __init__(self, size: int, device: torch.device):
        self.count = 0
        self.origin = torch.zeros(size, dtype=torch.float64, device=device)
        self.sum = torch.zeros_like(self.origin)
        self.squares = SquareSum(size, device)

    def add(self, rows: Tensor) -> Tensor:
        """Add rows (positions, size). Returns them relative to the origin."""
        rows = widened(rows)
        if not self.count and len(rows):
            self.origin = rows.mean(0).double()
        rows = rows - self.origin.to(rows)
        self.count += len(rows)
        self.sum += rows.sum(0, dtype=torch.float64)
        self.squares.add(rows)
        return rows

    @property
    def mean(self) -> Tensor:
        return (self.origin + self.sum / self.count).cpu()

    @property
    def covariance(self) -> Tensor:
        deviation = (self.sum / self.count).cpu()
        return self.squares.total().div_(self.count).addr_(deviation, deviation, alpha=-1)


class MatrixMoments:
    """Moments of one matrix of one layer, named `label`: of its inputs, possibly shared with other matrices, and of its outputs'
    gradients. Results are on the CPU.
    """

    def __init__(self, matrix: Matrix, label: str = "the matrix"):
        self.label = label
        outputs, inputs = shape_of(matrix)
        self.inputs = InputMoments(inputs, matrix.weight.device)
        self.gradients = SquareSum(outputs, matrix.weight.device)
        self._followed: MatrixMoments | None = None  # the matrix with the same inputs

    def add_inputs(self, inputs: Tensor, other: "MatrixMoments | None" = None) -> None:
        """Add inputs (positions, in). `other` belongs to the matrix that was just called with the same tensor, if there is one.

        If both have the same inputs from the start, such as queries, keys and values, they share one sum.

        Raises:
            InputError: if their inputs differ later.
        """
        if other is not None and not self.count and other.count == len(inputs):
            self.inputs, self._followed = other.inputs, other
        elif self._followed is None:
            self.inputs.add(inputs)
        elif other is None or other.inputs is not self.inputs:
            raise InputError(
                f"{self.label} first has the inputs of {self._followed.label} and later different ones; they must not change"
            )

    def add_gradients(self, gradients: Tensor) -> None:
        self.gradients.add(widened(gradients))

    def store(self, file: TensorFile) -> None:
        """Move the sums of squares to a file (`SquareSum.store`)."""
        self.inputs.squares.store(file)
        self.gradients.store(file)

    @property
    def count(self) -> int:
        return self.inputs.count

    @property
    def input_mean(self) -> Tensor:
        return self.inputs.mean

    @property
    def input_covariance(self) -> Tensor:
        return self.inputs.covariance

    @property
    def gradient_squares(self) -> Tensor:
        return self.gradients.total()

    def metric(self) -> Metric:
        """The metric, with the inputs' covariance: the bias, which is not shared, absorbs the error at the mean.

        Every position counts. In a decoder, keys and values of encoder states have many more positions than words.
        """
        return Metric(damped(self.input_covariance), damped(self.gradient_squares.div_(self.count), OUTPUT_DAMPING), self.count)


def widened(values: Tensor) -> Tensor:
    """Values in float32 or wider, in which sums of squares do not overflow."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
