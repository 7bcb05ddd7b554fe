"""Fill the tables of README.md from results/*.jsonl and from the architectures themselves.

python benchmarks/readme.py
"""

import json
import statistics
import sys
from pathlib import Path

from tabulate import tabulate

from residual_st.cli.inspect import describe
from residual_st.models.standalone import build_model, parse_model_flags

README = Path(__file__).parent.parent / "README.md"
RESULTS = Path(__file__).parent / "results"
SIZES = ["xs", "s", "m", "l", "paper"]


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def sizes() -> str:
    """What sharing keeps of each architecture, at K=3."""
    rows = []
    for size in SIZES:
        for rank in (2, 16):
            flags = parse_model_flags(f"s2t_residual_transformer_{size}", ["--encoder-residual-rank", str(rank)])
            figures = describe(build_model(flags, 8000, "meta"), flags)
            dense = figures["dense_encoder_matrix_parameters"]
            saved = dense - figures["encoder_matrix_parameters"]
            whole = figures["total_parameters"]
            shape = f"{flags.encoder_layers} × {flags.encoder_embed_dim}"
            kept = f"{dense / 1e6:.1f} M → {figures['encoder_matrix_parameters'] / 1e6:.1f} M"
            fraction = f"{figures['encoder_weight_fraction']:.1%}"
            rows.append([f"`_{size}`", shape, rank, kept, fraction, f"{(whole + saved) / 1e6:.1f} M → {whole / 1e6:.1f} M"])
    return tabulate(rows, ["size", "layers × d", "R", "encoder matrices", "kept", "whole model"], tablefmt="github")


def step_time() -> str:
    """The latest step time ratios against stock, by system."""
    by_system = {}
    for row in read("step_time"):
        by_system.setdefault((row["system"], row["size"], row["frames"], row["machine"], row["commit"]), []).append(row["ratio"])
    rows = [
        [system, f"`_{size}`", f"{frames:,}", f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}–{max(ratios):.2f}", machine]
        for (system, size, frames, machine, _), ratios in by_system.items()
    ]
    return tabulate(
        rows, ["system", "size", "frames", "update / stock", "range", "machine"], tablefmt="github", disable_numparse=True
    )


def demo() -> str:
    """The newest demo run of each system."""
    newest = {row["system"]: row for row in read("demo")}
    rows = [
        [name, f"{row['bleu']:.1f}", f"{row['encoder_weight_fraction']:.1%}", f"{row['checkpoint_bytes'] / 1e6:.1f} MB"]
        for name, row in newest.items()
    ]
    return tabulate(rows, ["encoder", "BLEU", "encoder matrices kept", "checkpoint"], tablefmt="github", disable_numparse=True)


def main() -> int:
    text = README.read_text(encoding="utf-8")
    for table in (sizes, step_time, demo):
        start, end = f"<!-- {table.__name__} -->\n", "<!-- end -->"
        before, found, rest = text.partition(start)
        if not found:
            print(f"README.md has no place for {table.__name__}", file=sys.stderr)
            return 2
        text = before + start + table() + "\n" + end + rest.partition(end)[2]
    README.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
