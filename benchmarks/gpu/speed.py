"""The cost of sharing on a GPU: updates, encoder, products, torch.compile and beam search, relative to the stock model.

    python benchmarks/gpu/speed.py --output rows.jsonl [--seconds 110] [--device cuda] [--tiny]

Cases are ordered by importance. None starts after `--seconds`, and cases that have rows are skipped, so that the rest can be
measured later. The layers of a product share one matrix, as in `product_rule.py`, and a row has the ratio of the time with composed
W to the time factor by factor.
"""

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import product_rule  # noqa: E402 - in the parent folder

from residual_st.benchmark.results import append, provenance, read  # noqa: E402
from residual_st.benchmark.speed import Case, measure  # noqa: E402
from residual_st.benchmark.systems import Shape  # noqa: E402
from residual_st.progress import progress, say, show_progress  # noqa: E402

SIZES = ((256, 12), (512, 12), (512, 18))  # width and layers of the _s, _m and _paper encoders
RANKS = (2, 16)
FRAMES = 40_000  # of an update
BATCHES = ((1, 5.0), (32, 20.0))  # utterances, and seconds of each, of the encoder
PRODUCTS = ((256, 256), (2048, 256), (512, 512), (2048, 512), (512, 2048))
POSITIONS = (25, 250, 2500, 10_000)
REPEATS = 5

Measured = tuple[dict, Callable[[], list[dict]]]  # a case as in its rows, and the function that measures it


def cases(device: str, tiny: bool) -> Iterator[Measured]:
    half, bfloat = ("float16", "bfloat16") if device == "cuda" else ("float32", "float32")
    sizes = ((32, 4),) if tiny else SIZES
    middle = sizes[len(sizes) // 2]
    frames, batches = (800, ((1, 1.0),)) if tiny else (FRAMES, BATCHES)
    ranks = RANKS[:1] if tiny else RANKS

    def case(kind: str, size: tuple[int, int], rank: int, precision: str, **options) -> Measured:
        width, layers = size
        chosen = Case(kind, Shape(width, layers, 3, rank), torch.get_num_threads(), device=device, precision=precision, **options)
        return chosen.row(), lambda: measure(chosen, 1 if tiny else REPEATS)

    for rank, size in product(ranks, sizes):
        yield case("update", size, rank, half, frames=frames)
    for rank, size, (batch, seconds) in product(ranks, sizes, batches):
        yield case("encoder", size, rank, half, batch=batch, seconds=seconds)
    for (out, into), rank, positions in product(((64, 32),) if tiny else PRODUCTS, ranks, (25,) if tiny else POSITIONS):
        yield _product(out, into, rank, positions, device, half, 1 if tiny else REPEATS)
    if not tiny:  # compiling takes most of a minute for any size
        yield case("update", middle, 2, half, frames=frames, compiled=True)
        for batch, seconds in batches:
            yield case("encoder", middle, 2, half, batch=batch, seconds=seconds, compiled=True)
    for size in sizes:
        yield case("update", size, 2, bfloat, frames=frames)
    for (batch, _), size in product(batches, sizes):
        yield case("beam", size, 2, half, batch=batch, seconds=batches[0][1])


def _product(out: int, into: int, rank: int, positions: int, device: str, precision: str, repeats: int) -> Measured:
    row = {"measure": "product", "out": out, "in": into, "rank": rank, "positions": positions}
    row |= {"device": device, "precision": precision}

    @torch.no_grad()
    def measured() -> list[dict]:
        torch.manual_seed(1)
        stack = product_rule.layers(out, into, rank, device, getattr(torch, precision))
        return [{"system": "composed", "seed": 1, **row, **product_rule.both_ways(stack, positions, repeats)}]

    return row, measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="rows of results are appended to this file")
    parser.add_argument("--seconds", type=float, default=110, metavar="S", help="start no case later than this (default: 110)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="test one small case of each kind; nothing is compiled")
    args = parser.parse_args()
    show_progress()
    logging.getLogger("filelock").setLevel(logging.WARNING)  # of torch.compile's caches
    began, source, done = time.perf_counter(), provenance(), read(args.output)
    by_row = {str(row): (row, measured) for row, measured in cases(args.device, args.tiny)}  # some are listed twice
    left = [
        (row, measured) for row, measured in by_row.values() if not any({**row, **source}.items() <= old.items() for old in done)
    ]
    failed = 0
    for number, (row, measured) in enumerate(progress(left, desc="speed", unit="case")):
        if time.perf_counter() - began > args.seconds:
            say(f"{len(left) - number} of {len(by_row)} cases would start after {args.seconds:g} s and are skipped")
            break
        try:
            rows = measured()
        except Exception:  # for example torch.compile on a machine without a compiler; other cases are still measured
            failed += 1
            say(f"{row} failed:\n{traceback.format_exc(limit=-3)}")
            continue
        for measurement in rows:
            append(args.output, {"benchmark": "speed", **measurement, **source})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
