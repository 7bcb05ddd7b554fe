"""Stage 4: which matrix of which layer gets how much of a budget of parameters."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HALVINGS = 60  # of the interval in which a price lies


@dataclass(frozen=True)
class Spectrum:
    """What each rank of one matrix would win.

    Attributes:
        energies: the drop of the weighted error with the first rank, the second, and so on; falling, shape (min(out, in),).
        cost: parameters of one rank, out + in.
        whole: parameters at which nothing is lost, which is the full rank then: those of a matrix that shares nothing. None where
            a shared one is kept besides.
    """

    energies: Tensor
    cost: int
    whole: int | None = None

    def at(self, price: float) -> "Choice":
        """The rank with the least sum of error and price, the price being of one parameter."""
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
    """A rank, the parameters that it takes, and the error that it leaves."""

    rank: int
    parameters: int
    error: float


def lowest_price(parameters: Callable[[float], int], budget: int) -> float:
    """The lowest price of a parameter at which so many as are worth it fit a budget; they must fit at some price."""
    low, high = math.log(1e-30), math.log(1e30)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if parameters(math.exp(middle)) > budget else (low, middle)
    return math.exp(high)


def price_within(spectra: list[Spectrum], budget: int) -> float:
    """`lowest_price` for the ranks of some matrices."""
    return lowest_price(lambda price: sum(spectrum.at(price).parameters for spectrum in spectra), budget)


def allocate(spectra: list[Spectrum], budget: int) -> list[int]:
    """The rank of each matrix that lowers the summed error most within `budget` parameters.

    Which matrices are kept whole is chosen first, by one price for all parameters. The other ranks are then taken in the order of
    their gain per parameter; a matrix's gains fall, so this is the best choice, except for the last ranks, which may not fit. Ties
    go to the first matrix.
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
