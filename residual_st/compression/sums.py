"""Sums over positions, of which second moments are made: float32, each tensor once, half of each square, on disk when complete."""

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
    """`Σ rowsᵀ rows` in float32, or float64 where rows are; only the blocks on and above the diagonal, the others mirror them.

    A sum of N batches is rounded by N times 6e-8 of the diagonal at most, as each product already is: a metric adds 1,000 times as
    much to the diagonal (`INPUT_DAMPING`).
    """

    BLOCK = 128  # columns: fewer blocks compute more in vain, more take longer each

    def __init__(self, size: int, device: torch.device):
        self.size = size
        starts = range(0, size, self.BLOCK)
        self._shapes = [(min(self.BLOCK, size - start), size - start) for start in starts]  # of strips to the right of the diagonal
        self._values: Tensor | StoredTensor = torch.zeros(sum(map(math.prod, self._shapes)), device=device)

    def add(self, rows: Tensor) -> None:
        """Rows (positions, size)."""
        self._values = self._values.to(rows.dtype)
        for strip in self._strips(self._values):
            right = rows[:, -strip.shape[1] :]
            strip.addmm_(right[:, : len(strip)].T, right)

    def store(self, file: "TensorFile") -> None:
        """Move the sum to a file. Nothing can be added afterwards."""
        if not isinstance(self._values, StoredTensor):
            self._values = file.stored(self._values)

    def total(self) -> Tensor:
        """(size, size), in float64, on the CPU."""
        total = torch.empty(self.size, self.size, dtype=torch.float64)
        start = 0
        for strip in self._strips(self._values.read() if isinstance(self._values, StoredTensor) else self._values):
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
    """A temporary file of tensors, which is deleted when none of them is referred to any more."""

    def __init__(self):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, closed below
        weakref.finalize(self, self._file.close)

    def stored(self, tensor: Tensor) -> "StoredTensor":
        """Write a tensor behind the others."""
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(tensor.cpu().contiguous().numpy())
        return StoredTensor(self, offset, tensor.shape, tensor.dtype)

    def read_into(self, tensor: Tensor, offset: int) -> None:
        self._file.seek(offset)
        self._file.readinto(tensor.numpy())


class StoredTensor(NamedTuple):
    """Where in a file a tensor is."""

    file: TensorFile
    offset: int
    shape: torch.Size
    dtype: torch.dtype

    def read(self) -> Tensor:
        """A copy of it, on the CPU."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.file.read_into(tensor, self.offset)
        return tensor


class InputMoments:
    """Sums over the positions that one tensor has had, which one matrix or several are given.

    Positions are counted from the mean of the first batch: where they hardly vary, the difference between their squares and the
    square of their mean would be rounding errors.
    """

    def __init__(self, size: int, device: torch.device):
        self.count = 0
        self.origin = torch.zeros(size, dtype=torch.float64, device=device)
        self.sum = torch.zeros_like(self.origin)
        self.squares = SquareSum(size, device)

    def add(self, rows: Tensor) -> Tensor:
        """Rows (positions, size). As they are counted: from the origin."""
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
    """What one matrix of one layer, which `label` names, has seen: the moments of its inputs, which others may have in common, and
    of its outputs' gradients. All that is made of them is on the CPU.
    """

    def __init__(self, matrix: Matrix, label: str = "the matrix"):
        self.label = label
        outputs, inputs = shape_of(matrix)
        self.inputs = InputMoments(inputs, matrix.weight.device)
        self.gradients = SquareSum(outputs, matrix.weight.device)
        self._followed = None  # whose inputs these are, too

    def add_inputs(self, inputs: Tensor, other: "MatrixMoments | None" = None) -> None:
        """Add inputs (positions, in). `other` is of a matrix that has just been given the same tensor, if there is one.

        Where it is from the start, as keys and values follow queries, one sum serves both.

        Raises:
            InputError: if it is not any more.
        """
        if other is not None and not self.count and other.count == len(inputs):
            self.inputs, self._followed = other.inputs, other
        elif self._followed is None:
            self.inputs.add(inputs)
        elif other is None or other.inputs is not self.inputs:
            raise InputError(f"{self.label} is called with the inputs of {self._followed.label} at first and with others later")

    def add_gradients(self, gradients: Tensor) -> None:
        self.gradients.add(widened(gradients))

    def store(self, file: TensorFile) -> None:
        """Move the squares to a file (`SquareSum.store`)."""
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
        """With the inputs' covariance: the mean's error goes into the bias, which is not shared.

        Errors count at every position, of which a decoder's keys and values of the encoder's states see many more than its words.
        """
        return Metric(damped(self.input_covariance), damped(self.gradient_squares.div_(self.count), OUTPUT_DAMPING), self.count)


def widened(values: Tensor) -> Tensor:
    """In float32 at least, in which sums of squares do not overflow."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
