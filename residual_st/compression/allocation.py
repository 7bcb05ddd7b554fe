"""Stage 4: allocation of a parameter budget to the matrices of all layers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HALVINGS = 60  # bisection steps for a price


@dataclass(frozen=True)
class Spectrum:
    """The error reduction by each rank of one matrix.

    Attributes:
        energies: reduction of the weighted error by the first rank, the second, and so on; descending, shape (min(out, in),).
        cost: parameters per rank, out + in.
        whole: for a matrix that shares nothing, the number of parameters of the whole matrix, which replaces the full rank and has
            no error. None for a residual to a shared matrix.
    """

    energies: Tensor
    cost: int
    whole: int | None = None

    def at(self, price: float) -> "Choice":
        """The rank with the least error + price * parameters."""
        rank = int((self.energies > price * self.cost).sum())
        if self.whole is not None:
            rank = max(rank, 1)
            if self._tail(rank) + price * min(rank * self.cost, self.whole) >= price * self.whole:
                return Choice(len(self.energies), self.whole, 0.0)
        return Choice(rank, rank * self.cost, self._tail(rank))

    def _tail(self, rank: int) -> float:
        return self.energies[rank:].sum().item()


@dataclass(frozen=True)
class Choice:
    """A rank, its number of parameters, and the remaining error."""

    rank: int
    parameters: int
    error: float


def lowest_price(parameters: Callable[[float], int], budget: int) -> float:
    """The lowest price per parameter at which `parameters(price)` is within the budget."""
    low, high = math.log(1e-30), math.log(1e30)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if parameters(math.exp(middle)) > budget else (low, middle)
    return math.exp(high)


def price_within(spectra: list[Spectrum], budget: int) -> float:
    """`lowest_price` for the ranks of several matrices."""
    return lowest_price(lambda price: sum(spectrum.at(price).parameters for spectrum in spectra), budget)


def allocate(spectra: list[Spectrum], budget: int) -> list[int]:
    """The ranks of the matrices that minimise the summed error within `budget` parameters.

    The matrices to keep whole are chosen first, at one price per parameter. The other ranks are then added in the order of their
    gain per parameter. Since a matrix's gains decrease, this is optimal, except that the last ranks may not fit. Ties go to the
    first matrix.
    """
    ranks, left = [0] * len(spectra), budget
    may_be_whole = [index for index, spectrum in enumerate(spectra) if spectrum.whole is not None]
    if may_be_whole:
        price = price_within(spectra, budget)
        for index in may_be_whole:
            choice = spectra[index].at(price)
            whole = choice.rank == len(spectra[index].energies)
            ranks[index] = choice.rank if whole else 1
            left -= choice.parameters if whole else spectra[index].cost
    left_over = [spectrum.energies[rank:] / spectrum.cost for spectrum, rank in zip(spectra, ranks)]
    owner = torch.cat([torch.full((len(gains),), index) for index, gains in enumerate(left_over)])
    for index in owner[torch.argsort(torch.cat(left_over), descending=True, stable=True)].tolist():
        spectrum = spectra[index]
        if spectrum.cost <= left and (spectrum.whole is None or (ranks[index] + 1) * spectrum.cost < spectrum.whole):
            ranks[index] += 1
            left -= spectrum.cost
    return ranks
