"""Changes of the basis of a layer's inner units, which do not change the layer's function."""

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
        """The weight for rotated inputs, with the same outputs as before."""
        return weight @ self.matrix.T

    def vectors(self, moments: Tensor) -> Tensor:
        """Second moments of vectors in the new basis."""
        return self.matrix @ moments @ self.matrix.T

    covectors = vectors  # gradients rotate like vectors

    def after(self, before: "Rotation") -> "Rotation":
        """The composition of two changes, `before` first."""
        return Rotation(self.matrix @ before.matrix)


@dataclass(frozen=True)
class Reordering:
    """`y -> (scale * y)[order]`, with positive scales, which commutes with ReLU."""

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
        """The composition of two changes, `before` first."""
        scale = before.scale.clone()
        scale[before.order] *= self.scale
        return Reordering(before.order[self.order], scale)

    def _permute(self, moments: Tensor) -> Tensor:
        return moments[self.order][:, self.order]


Basis = Rotation | Reordering
