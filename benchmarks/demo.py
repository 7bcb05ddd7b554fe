"""Run the demo for the residual and the dense model, and append what came out to results/demo.jsonl.

    python benchmarks/demo.py [residual] [dense]

What DEMO_ROOT holds already is used as it is. One seed on an easy synthetic task: it shows that the pipeline works and how large
its files are, and says nothing on quality.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from residual_st.benchmark.results import append, provenance

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "demo.jsonl"


def main() -> int:
    demo_root = Path(os.environ.get("DEMO_ROOT", ROOT / "demo"))
    for system in sys.argv[1:] or ("residual", "dense"):
        subprocess.run(["bash", ROOT / "examples/must_c/demo.sh", *(["--dense"] if system == "dense" else [])], check=True)
        score = re.search(r"BLEU = ([\d.]+)", (demo_root / f"{system}.txt").read_text())
        command = [sys.executable, "-m", "residual_st", "inspect", demo_root / f"{system}.pt", "--json"]
        figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        kept = ("encoder_weight_fraction", "encoder_parameters", "total_parameters", "checkpoint_bytes")
        row = {"system": system, "seed": 1, "bleu": float(score[1])}
        append(RESULTS, {**row, **{name: figures[name] for name in kept}, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
