"""Time of one training update, residual against stock, side by side.

    python benchmarks/step_time.py --repeats 7

Both models live in one process and take turns on the same batch, so that a machine that slows down slows both. Each row of the
result is one repeat: the mean of a few updates (forward, backward, clipping, Adam) of either model, and their ratio.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from provenance import append, provenance
from residual_st.criterions.label_smoothed_cross_entropy_with_residual import residual_energies
from residual_st.models.standalone import build_model, parse_model_flags

RESULTS = Path(__file__).parent / "results" / "step_time.jsonl"
FRAMES = 400  # an utterance of 4 s
WORDS, TARGET_LENGTH = 8000, 20


def build(arch: str, *flags: str):
    return build_model(parse_model_flags(arch, list(flags)), WORDS).train()


def make_batch(frames: int) -> dict:
    size = frames // FRAMES
    return {
        "src_tokens": torch.randn(size, FRAMES, 80),
        "src_lengths": torch.full((size,), FRAMES),
        "prev_output_tokens": torch.randint(4, WORDS, (size, TARGET_LENGTH)),
    }


def update(model, optimizer, batch, log_energies: bool) -> None:
    optimizer.zero_grad()
    logits, _ = model(**batch)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["prev_output_tokens"].flatten()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    if log_energies:
        with torch.no_grad():
            residual_energies(model)
    optimizer.step()


def seconds(model, optimizer, batch, updates: int, log_energies: bool) -> float:
    start = time.perf_counter()
    for _ in range(updates):
        update(model, optimizer, batch, log_energies)
    return (time.perf_counter() - start) / updates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--updates", type=int, default=3, help="updates of each model in a repeat")
    parser.add_argument("--frames", type=int, default=10_000, help="frames in a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="s", help="suffix of the architecture (default: s)")
    parser.add_argument("--rank", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    batch = make_batch(args.frames)
    systems = {
        "stock": (build(f"s2t_transformer_{args.size}"), False),
        "residual": (build(f"s2t_residual_transformer_{args.size}", "--encoder-residual-rank", str(args.rank)), False),
    }
    systems["residual+log"] = (systems["residual"][0], True)  # with the criterion's residual energies of each update
    optimizers = {id(model): torch.optim.Adam(model.parameters(), lr=1e-4) for model, _ in systems.values()}
    runs = {name: (model, optimizers[id(model)], log) for name, (model, log) in systems.items()}
    for model, optimizer, log in runs.values():
        update(model, optimizer, batch, log)
    ratios = {name: [] for name in runs if name != "stock"}
    for repeat in range(args.repeats):
        times = {name: seconds(model, optimizer, batch, args.updates, log) for name, (model, optimizer, log) in runs.items()}
        for name, values in ratios.items():
            values.append(times[name] / times["stock"])
            row = {"system": f"{name} K=3 R={args.rank}", "seed": 1, "repeat": repeat, "size": args.size, "frames": args.frames}
            row |= {"seconds": round(times[name], 4), "stock_seconds": round(times["stock"], 4), "ratio": round(values[-1], 4)}
            append(RESULTS, {**row, **provenance()})
    for name, values in ratios.items():
        print(f"{name} / stock: median {statistics.median(values):.3f}, from {min(values):.3f} to {max(values):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
