"""Composing W against multiplying factor by factor, and the threshold of `tune_products` from which composing is faster.

    python benchmarks/product_rule.py [--threads 1,2]

Both ways alternate on the weights of several layers, laid out as for inference, so that caches hold no more than in a model. A row
has the ratio of their times at one number of positions, and the threshold that `tune_products` chose just before.
`tables/speed.py` computes the cost of the fixed rule from them.
"""

import argparse
import itertools
import sys
from pathlib import Path

import torch
from torch import nn

from residual_st.benchmark.results import append, provenance
from residual_st.benchmark.speed import wait_for
from residual_st.benchmark.timing import alternate, ratios_to
from residual_st.cli.arguments import list_of
from residual_st.progress import progress
from residual_st.sharing import ResidualLinear, transpose_storage_, tune_products
from residual_st.sharing.product import compose, factor_by_factor

RESULTS = Path(__file__).parent / "results" / "product_rule.jsonl"
LAYERS, REPEATS = 6, 7
RANKS = (2, 16)
SHAPES = ((256, 256), (2048, 256), (256, 2048), (512, 512), (2048, 512), (512, 2048))
POSITIONS = (13, 25, 50, 125, 250, 500, 1000, 2000, 4000)


def layers(
    out_features: int, in_features: int, rank: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.ModuleList:
    owner = nn.ParameterDict({"w": torch.randn(out_features, in_features)})
    stack = nn.ModuleList(ResidualLinear(owner, "w", nn.Parameter(torch.randn(out_features)), rank, True) for _ in range(LAYERS))
    stack.append(owner)
    transpose_storage_(stack.to(device, dtype))
    return stack[:LAYERS]


def both_ways(stack: nn.ModuleList, positions: int, repeats: int = REPEATS) -> dict:
    """Seconds factor by factor and with W composed, on the weights' device, and the ratio of the second to the first."""
    weight = stack[0].shared_weight
    x = torch.randn(positions, stack[0].in_features, device=weight.device, dtype=weight.dtype)

    def factors() -> None:
        for layer in stack:
            factor_by_factor(x, layer.bias, *layer.all_terms)

    def composed() -> None:
        for layer in stack:
            nn.functional.linear(x, compose(*layer.all_terms), layer.bias)

    ways = {"factors": factors, "composed": composed}
    return ratios_to("factors", alternate(ways, repeats, wait_for(weight.device.type)))["composed"]


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=list_of(int), default=[1, 2], metavar="N,…", help="threads used by torch (default: 1,2)")
    cases = list(itertools.product(parser.parse_args().threads, RANKS, SHAPES))
    torch.manual_seed(1)
    for threads, rank, (out_features, in_features) in progress(cases, desc="product rule", unit="shape"):
        torch.set_num_threads(threads)
        stack = layers(out_features, in_features, rank)
        row = {"system": "product", "seed": 1, "threads": threads, "rank": rank, "out": out_features, "in": in_features}
        for positions in POSITIONS:
            (tuned,) = tune_products(stack).values()
            append(RESULTS, {**row, "positions": positions, "tuned": round(tuned), **both_ways(stack, positions), **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
