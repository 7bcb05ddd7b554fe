import itertools

import torch

from residual_st.compression.allocation import Spectrum, allocate


def test_ranks_of_equal_cost_are_allocated_optimally():
    energies = [[5.0, 4.0, 0.1], [3.0, 2.9, 2.8], [1.0, 0.0, 0.0]]
    spectra = [Spectrum(torch.tensor(values), cost=10) for values in energies]
    for budget in range(0, 100, 10):
        ranks = allocate(spectra, budget)
        best = max(
            sum(sum(values[:rank]) for values, rank in zip(energies, choice))
            for choice in itertools.product(range(4), repeat=3)
            if 10 * sum(choice) <= budget
        )
        assert sum(sum(values[:rank]) for values, rank in zip(energies, ranks)) == best


def test_costlier_rank_must_reduce_the_error_more():
    spectra = [Spectrum(torch.tensor([4.0]), cost=10), Spectrum(torch.tensor([5.0]), cost=20)]
    assert allocate(spectra, 20) == [1, 0]
    assert allocate(spectra, 30) == [1, 1]
