"""Changes of the names that a layer's inner units go by, which leave what it computes as it is."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """`y -> matrix @ y` with an orthogonal matrix (n, n)."""

    matrix: Tensor

    def rows(self, weight: Tensor) -> Tensor:
        return self.matrix @ weight

    def columns(self, weight: Tensor) -> Tensor:
        """The weight whose product with the rotated inputs is what it was with the inputs."""
        return weight @ self.matrix.T

    def vectors(self, moments: Tensor) -> Tensor:
        """Second moments of vectors."""
        return self.matrix @ moments @ self.matrix.T

    covectors = vectors  # gradients rotate as vectors do

    def after(self, before: "Rotation") -> "Rotation":
        """One change in place of two."""
        return Rotation(self.matrix @ before.matrix)


@dataclass(frozen=True)
class Reordering:
    """`y -> (scale * y)[order]`, with positive scales: what commutes with ReLU."""

    order: Tensor
    scale: Tensor

    def rows(self, weight: Tensor) -> Tensor:
        return (self.scale.reshape(-1, *[1] * (weight.dim() - 1)) * weight)[self.order]

    def columns(self, weight: Tensor) -> Tensor:
        return (weight / self.scale)[:, self.order]

    def vectors(self, moments: Tensor) -> Tensor:
        return self._permute(moments * torch.outer(self.scale, self.scale))

    def covectors(self, moments: Tensor) -> Tensor:
        return self._permute(moments / torch.outer(self.scale, self.scale))

    def after(self, before: "Reordering") -> "Reordering":
        """One change in place of two."""
        scale = before.scale.clone()
        scale[before.order] *= self.scale
        return Reordering(before.order[self.order], scale)

    def _permute(self, moments: Tensor) -> Tensor:
        return moments[self.order][:, self.order]


Basis = Rotation | Reordering
