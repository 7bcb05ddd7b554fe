"""Time and memory of recomputing W in the backward pass, compared with keeping it.

    python benchmarks/recompute.py

The same model alternates between `ResidualLinear` and a variant whose composed weight is kept by autograd. Bytes are those of all
tensors that autograd keeps between the forward and the backward pass, each storage counted once.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn

from residual_st.benchmark.results import append, cpu_name, provenance
from residual_st.benchmark.systems import BINS, VOCABULARY, Shape, build_residual
from residual_st.benchmark.timing import alternate, ratios_to
from residual_st.sharing import ResidualLinear

RESULTS = Path(__file__).parent / "results" / "recompute.jsonl"
FRAMES = 10_000
SHAPES = [Shape(256, 12, 3, 16), Shape(512, 12, 3, 16)]


def keeping(layer: ResidualLinear, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, layer.weight, layer.bias)


def update(model: nn.Module, forward: Callable) -> Callable[[], None]:
    batch = {
        "src_tokens": torch.randn(FRAMES // 400, 400, BINS),
        "src_lengths": torch.full((FRAMES // 400,), 400),
        "prev_output_tokens": torch.randint(4, VOCABULARY, (FRAMES // 400, 20)),
    }

    def run() -> None:
        ResidualLinear.forward = forward
        model.zero_grad()
        model(**batch)[0].square().mean().backward()

    return run


def held_bytes(run: Callable[[], None]) -> int:
    storages = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storages.values())


def main() -> int:
    torch.manual_seed(1)
    torch.set_num_threads(2)
    table = []
    for shape in SHAPES:
        model = build_residual(shape).train()
        runs = {"kept": update(model, keeping), "recomputed": update(model, ResidualLinear.forward)}
        held = {name: held_bytes(run) for name, run in runs.items()}
        figures = ratios_to("kept", alternate(runs, 7, lambda: None))["recomputed"]
        row = {"system": "recomputed", "seed": 1, **shape.row(), "frames": FRAMES, **figures}
        row |= {"held_bytes": held["recomputed"], "kept_held_bytes": held["kept"]}
        append(RESULTS, {**row, **provenance(), "machine": f"{cpu_name()}, 2 threads"})
        table.append([shape.width, figures["ratio"], figures["ratio_low"], figures["ratio_high"], held["kept"], held["recomputed"]])
    headers = ["d", "time, recomputed / kept", "least", "greatest", "bytes held if kept", "if recomputed"]
    print(tabulate(table, headers=headers, intfmt=","))
    return 0


if __name__ == "__main__":
    sys.exit(main())
