"""fairseq-generate from end to end, residual against stock, with equal functions, beams and batches.

    python benchmarks/generate.py DATA --config-yaml config_st.yaml --gen-subset tst-HE_st --residual residual.pt

The stock checkpoint is the expanded residual one. Systems alternate, each run is a new process, and times include the start of
Python. A row has the median and range of the ratios, and the number of texts that differ.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from residual_st.benchmark.results import append, provenance
from residual_st.benchmark.timing import ratios_to
from residual_st.cli import main as residual_st
from residual_st.cli import user_dir

# the fairseq-generate command, plus the permission that torch needs to read fairseq checkpoints
START = """
import argparse, sys, torch
torch.serialization.add_safe_globals([argparse.Namespace])
from fairseq_cli.generate import cli_main
sys.argv[0] = "fairseq-generate"
cli_main()
"""
RESULTS = Path(__file__).parent / "results" / "generate.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--config-yaml", default="config_st.yaml")
    parser.add_argument("--gen-subset", default="tst-HE_st")
    parser.add_argument("--residual", type=Path, required=True, help="a residual checkpoint")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=20_000)
    parser.add_argument("--max-len-b", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stock = Path(folder) / "stock.pt"
        if residual_st(["expand", str(args.residual), "--output", str(stock)]):
            return 2
        systems = {"stock": (stock, []), "compact": (args.residual, plugin("compact")), "fast": (args.residual, plugin("fast"))}
        times = {name: [] for name in systems}
        translations = {}
        for repeat in range(args.repeats):
            for name in sorted(systems, reverse=repeat % 2 == 1):
                start = time.perf_counter()
                translations[name] = generate(args, *systems[name])
                times[name].append(time.perf_counter() - start)
    for name, figures in ratios_to("stock", times).items():
        different = sum(text != stock_text for text, stock_text in zip(translations[name], translations["stock"]))
        row = {"system": name, "seed": 1, "checkpoint": args.residual.name, "beam": args.beam, "max_tokens": args.max_tokens}
        row |= {"sentences": len(translations[name]), "different_translations": different, **figures}
        print(row)
        append(RESULTS, {**row, **provenance()})
    return 0


def plugin(mode: str) -> list[str]:
    """The flags of fairseq-generate for a residual checkpoint."""
    folder = str(Path(user_dir.__file__).parent.parent)
    return ["--user-dir", folder, "--model-overrides", str({"encoder_inference_mode": mode})]


def generate(args: argparse.Namespace, path: Path, flags: list[str]) -> list[str]:
    """The translations of a checkpoint."""
    command = [sys.executable, "-c", START, args.data, "--task", "speech_to_text", "--config-yaml", args.config_yaml]
    command += ["--gen-subset", args.gen_subset, "--path", path, "--beam", args.beam, "--max-tokens", args.max_tokens]
    command += ["--max-len-b", args.max_len_b, "--cpu", "--scoring", "sacrebleu", *flags]
    command = [str(part) for part in command]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.findall(r"^D-\d+\t[^\t]*\t(.*)$", output, re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
