"""Stage 4: which matrix of which layer gets how much of a budget of parameters."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """What each rank of one matrix would win.

    Attributes:
        energies: the drop of the weighted error with the first rank, the second, and so on; falling, shape (min(out, in),).
        cost: parameters of one rank, out + in.
    """

    energies: Tensor
    cost: int


def allocate(spectra: list[Spectrum], budget: int) -> list[int]:
    """The rank of each matrix that lowers the summed error most within `budget` parameters.

    Ranks are taken in the order of their gain per parameter; a matrix's gains fall, so this is the best choice but for the last
    ranks, which may not fit. Ties go to the first matrix.
    """
    gains = torch.cat([spectrum.energies / spectrum.cost for spectrum in spectra])
    owner = torch.cat([torch.full((len(spectrum.energies),), index) for index, spectrum in enumerate(spectra)])
    ranks, left = [0] * len(spectra), budget
    for index in owner[torch.argsort(gains, descending=True, stable=True)].tolist():
        if spectra[index].cost <= left:
            ranks[index] += 1
            left -= spectra[index].cost
    return ranks
