"""Fitting a whole stack of layers: every group is aligned, then factorized."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from residual_st.compression.alignment import align_group, align_to
from residual_st.compression.allocation import Spectrum
from residual_st.compression.factorization import Factors, Residual, factorize, mean
from residual_st.compression.layer_weights import LayerWeights, MatrixWeights, Metric
from residual_st.compression.low_rank import squared_singular_values
from residual_st.progress import progress
from residual_st.sharing.plan import SharingPlan
from residual_st.sharing.ranks import Alone
from residual_st.stacks.symmetries import Symmetry

ROUGH_STEPS = 3  # conjugate gradient steps for a mean without residuals
REALIGNMENTS = 1  # realignments of each layer to its own approximation including the residual

Ranks = list[list[int]]  # layer -> matrix -> R


@dataclass
class Fit:
    """A shared form of a stack with its values.

    Attributes:
        plan, ranks: the form.
        layers: the aligned weights.
        shared: group -> matrix name -> U (out, in); missing for a matrix that is `Alone` in all of the group's layers.
        residuals: layer -> matrix name -> residual.
    """

    plan: SharingPlan
    ranks: Ranks
    layers: list[LayerWeights]
    shared: list[dict[str, Tensor]]
    residuals: list[dict[str, Residual]]

    def difference(self, layer: int, name: str) -> Tensor:
        """Aligned weight minus its approximation, (out, in)."""
        return self._without_shared(layer, name) - self.residuals[layer][name].dense()

    def spectra(self) -> list[Spectrum]:
        """The error reduction by ranks of each matrix of each layer, layer by layer, with U and the diagonals of this fit.

        Matrices that share nothing are left out: they are the same in every fit, see `Stack.spectra_alone`.
        """
        spectra = []
        for index, layer in enumerate(self.layers):
            for name, matrix in layer.items():
                rest = self._without_shared(index, name)
                diagonal = self.residuals[index][name].diagonal
                if diagonal is not None:
                    rest.diagonal().sub_(diagonal)
                spectra.append(Spectrum(_energies(matrix.metric, rest), sum(rest.shape)))
        return spectra

    def _without_shared(self, layer: int, name: str) -> Tensor:
        matrix, rank = self.layers[layer][name], self.ranks[layer][list(self.layers[layer]).index(name)]
        if isinstance(rank, Alone):
            return matrix.weight.clone()
        return matrix.weight - self.shared[self.plan.groups[layer]][name]


@dataclass(frozen=True)
class Stack:
    """Trained layers to be fitted.

    Attributes:
        layers: their weights, with metrics.
        symmetries: symmetries of each layer, for alignment.
        diagonal: whether residuals have a diagonal.
    """

    layers: list[LayerWeights]
    symmetries: Sequence[Symmetry]
    diagonal: bool

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [(matrix.exact.size(0), matrix.exact.size(1)) for matrix in self.layers[0].values()]

    def spectra_alone(self) -> list[Spectrum]:
        """The error reduction by ranks of each matrix of each layer, layer by layer, if it shares nothing."""
        spectra = []
        for layer in self.layers:
            for matrix in layer.values():
                rows, columns = matrix.exact.shape
                whole = rows * columns - (min(rows, columns) if self.diagonal else 0)  # a whole matrix has no diagonal in addition
                spectra.append(Spectrum(_energies(matrix.metric, matrix.weight), rows + columns, whole))
        return spectra

    def spectra_beside_means(self, plan: SharingPlan) -> list[Spectrum]:
        """The error reduction by ranks of each matrix of each layer, added to the mean of its group: an estimate of `Fit.spectra`
        if everything shares, without alignment and diagonals. Computed in float32, with one group's metrics in memory at a time.
        """
        spectra = {}
        for members in map(plan.layers_of, range(plan.n_groups)):
            for name in self.layers[0]:
                group = {index: self.layers[index][name] for index in members}
                shared = mean([m.weight.float() for m in group.values()], [m.metric.narrow for m in group.values()], ROUGH_STEPS)
                for index, matrix in group.items():
                    energies = _energies(matrix.metric, (matrix.weight - shared).float())
                    spectra[index, name] = Spectrum(energies, sum(shared.shape))
        return [spectra[index, name] for index, layer in enumerate(self.layers) for name in layer]

    def fit(self, plan: SharingPlan, ranks: Ranks, rounds: int, layers: list[LayerWeights] | None = None) -> Fit:
        """Align and factorize group by group.

        Args:
            plan: the group of each layer.
            ranks: R of each layer and matrix.
            rounds: maximum rounds of factorization.
            layers: weights already aligned for this plan by an earlier fit; by default the stack's own.
        """
        layers = list(self.layers if layers is None else layers)
        shared: list[dict[str, Tensor]] = []
        residuals: list[dict[str, Residual]] = [{} for _ in layers]
        largest = max(map(plan.groups.count, plan.groups))
        for group in progress(range(plan.n_groups), desc=f"fitting groups of {largest}", unit="group"):
            members = plan.layers_of(group)
            group_ranks = [ranks[index] for index in members]
            shares = len(members) > 1 and not all(isinstance(rank, Alone) for row in group_ranks for rank in row)
            symmetries = self.symmetries if shares else ()
            weights = align_group([layers[index] for index in members], symmetries)
            factors = self._factorize(weights, group_ranks, rounds)
            for _ in range(REALIGNMENTS if symmetries else 0):
                weights = [
                    align_to(layer, {name: part.composed(member) for name, part in factors.items()}, symmetries)
                    for member, layer in enumerate(weights)
                ]
                factors = self._factorize(weights, group_ranks, rounds, factors)
            shared.append({name: part.shared for name, part in factors.items() if part.shared is not None})
            for member, index in enumerate(members):
                layers[index] = weights[member]
                residuals[index] = {name: part.residuals[member] for name, part in factors.items()}
        return Fit(plan, ranks, layers, shared, residuals)

    def _factorize(
        self, weights: list[LayerWeights], ranks: Ranks, rounds: int, start: dict[str, Factors] | None = None
    ) -> dict[str, Factors]:
        return {
            name: factorize(
                [layer[name].weight for layer in weights],
                [layer[name].metric for layer in weights],
                [row[matrix] for row in ranks],
                self.diagonal,
                rounds,
                None if start is None else start[name],
            )
            for matrix, name in enumerate(weights[0])
        }


def _energies(metric: Metric, rest: Tensor) -> Tensor:
    """The error reduction by each rank for a remainder (out, in), in float64; computed in the remainder's precision."""
    return metric.scale * squared_singular_values(metric.whiten(rest).double())


def relative_error(matrix: MatrixWeights, approximation: Tensor) -> float:
    """Norm of an approximation's error / norm of the matrix, in its metric. For a zero matrix, 1 if there is an error, else 0."""
    metric = matrix.metric
    with torch.no_grad():
        squared = metric.squared_norm(matrix.weight - approximation.to(matrix.weight))  # fits are computed on the CPU
    size = metric.squared_norm(matrix.weight)
    return math.sqrt(max(squared, 0.0) / size) if size > 0 else float(squared > 0)
