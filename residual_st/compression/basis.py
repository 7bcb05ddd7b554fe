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

    def _permute(self, moments: Tensor) -> Tensor:
        return moments[self.order][:, self.order]


Basis = Rotation | Reordering


def composition(later: Basis, before: Basis | None) -> Basis:
    """One change for two of the same kind, `before` first; None for no change."""
    if before is None:
        return later
    if isinstance(later, Rotation) and isinstance(before, Rotation):
        return Rotation(later.matrix @ before.matrix)
    if isinstance(later, Reordering) and isinstance(before, Reordering):
        scale = before.scale.clone()
        scale[before.order] *= later.scale
        return Reordering(before.order[later.order], scale)
    raise TypeError(f"a {type(later).__name__} cannot follow a {type(before).__name__}")
