"""From how many positions on composing W beats multiplying factor by factor, and what `measure_products` says of it beforehand.

    python benchmarks/product_rule.py

Both ways take turns on several layers' weights, laid out as for inference, so that caches hold no more than in a model. A row has
the crossing in positions, found by bisection on a logarithmic scale.
"""

import itertools
import statistics
import sys
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn

from residual_st.benchmark.results import append, provenance
from residual_st.benchmark.timing import alternate
from residual_st.sharing import ResidualLinear, transpose_storage_
from residual_st.sharing.product import compose, factor_by_factor, measure_products, positions_to_compose

RESULTS = Path(__file__).parent / "results" / "product_rule.jsonl"
LAYERS = 6
SHAPES = [(256, 256), (2048, 256), (256, 2048), (512, 512), (2048, 512), (512, 2048)]


def layers(out_features: int, in_features: int, rank: int) -> nn.ModuleList:
    owner = nn.ParameterDict({"w": torch.randn(out_features, in_features)})
    stack = nn.ModuleList(ResidualLinear(owner, "w", nn.Parameter(torch.randn(out_features)), rank, True) for _ in range(LAYERS))
    stack.append(owner)
    transpose_storage_(stack)
    return stack[:LAYERS]


def crossing(stack: nn.ModuleList) -> int:
    """Positions at which both ways take as long."""
    low, high = 8, 8192
    while high > 1.1 * low:
        positions = round((low * high) ** 0.5)
        x = torch.randn(positions, stack[0].in_features)

        def factors(x=x):
            for layer in stack:
                factor_by_factor(x, layer.bias, layer.shared_weight, layer.up, layer.down, layer.diagonal)

        def composed(x=x):
            for layer in stack:
                weight = compose(layer.shared_weight, layer.up, layer.down, layer.diagonal)
                nn.functional.linear(x, weight, layer.bias)

        times = alternate({"factors": factors, "composed": composed}, 5, lambda: None)
        if statistics.median(times["factors"]) < statistics.median(times["composed"]):
            low = positions
        else:
            high = positions
    return round((low * high) ** 0.5)


def main() -> int:
    torch.manual_seed(1)
    table = []
    with torch.no_grad():
        for threads, rank, (out_features, in_features) in itertools.product((1, 2), (2, 16), SHAPES):
            torch.set_num_threads(threads)
            stack = layers(out_features, in_features, rank)
            positions = crossing(stack)
            measure_products([layer.all_terms for layer in stack])
            rule = round(positions_to_compose(out_features, in_features, rank))
            table.append([threads, rank, out_features, in_features, positions, rule])
            row = {"system": "product", "seed": 1, "threads": threads, "rank": rank, "out": out_features, "in": in_features}
            append(RESULTS, {**row, "positions": positions, **provenance()})
    print(tabulate(table, headers=["threads", "rank", "out", "in", "measured", "rule"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
