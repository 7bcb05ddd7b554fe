"""Run the demo at several learning rates and seeds, and append the results to results/demo.jsonl.

    python benchmarks/demo.py --systems residual dense --rates 3e-3 --seeds 1 2 3

The corpus of DEMO_ROOT is used unchanged. Runs that have a row are skipped. The task is synthetic and easy: it shows that the
pipeline works, the sizes of its files and the scores of each form at its best learning rate, but says little about quality.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from training_runs.matrix import rate_name

from residual_st.benchmark.results import append, provenance, read

ROOT = Path(__file__).parent.parent
KEPT = ("encoder_weight_fraction", "encoder_parameters", "total_parameters", "checkpoint_bytes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", choices=("residual", "dense"), default=["residual", "dense"])
    parser.add_argument("--rates", nargs="+", type=float, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "demo.jsonl")
    args = parser.parse_args()
    corpus = Path(os.environ.get("DEMO_ROOT", ROOT / "demo")) / "en-de"
    if not corpus.is_dir():
        parser.error(f"{corpus} is not there; `make demo` makes it")
    done = {(row["system"], row["lr"], row["seed"]) for row in read(args.output)}
    runs = [(system, rate, seed) for seed in args.seeds for system in args.systems for rate in args.rates]
    for system, rate, seed in runs:
        if (system, rate, seed) not in done:
            append(args.output, run(system, rate, seed, corpus))
    return 0


def run(system: str, rate: float, seed: int, corpus: Path) -> dict:
    """Train, average, translate and inspect as `make demo` does, in a folder beside the corpus. Returns the row."""
    folder = corpus.parent / "runs" / f"{system}-{rate_name(rate)}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "en-de").exists():
        (folder / "en-de").symlink_to(corpus.resolve())
    command = [
        "bash",
        ROOT / "examples/must_c/demo.sh",
        *(["--dense"] if system == "dense" else []),
        f"lr={rate:g}",
        f"seed={seed}",
    ]
    subprocess.run(command, check=True, env={**os.environ, "DEMO_ROOT": str(folder.resolve())})
    score = re.search(r"BLEU = ([\d.]+)", (folder / system / "generate-tst-COMMON_st.txt").read_text())
    command = [sys.executable, "-m", "residual_st", "inspect", folder / f"{system}.pt", "--json"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "system": system,
        "seed": seed,
        "lr": rate,
        "bleu": float(score[1]),
        **{name: figures[name] for name in KEPT},
        **provenance(),
    }


if __name__ == "__main__":
    sys.exit(main())
