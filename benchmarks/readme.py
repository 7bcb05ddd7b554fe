"""Fill the tables of README.md from results/*.jsonl and from the architectures themselves.

python benchmarks/readme.py
"""

import json
import statistics
import sys
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate

from residual_st.cli.inspect import describe
from residual_st.models.standalone import build_model, parse_model_flags

README = Path(__file__).parent.parent / "README.md"
RESULTS = Path(__file__).parent / "results"
SANITY = ("dense", "all layers bypassed", "first third of the layers", "every third layer")
SIZES_MEASURED = ("K=3 R=16", "budget 0.36", "K=3 R=2")
METHODS = (
    "plain",
    "aligned + calibrated",
    "refined",
    "refined, fine-tuned",
    "aligned + calibrated, fine-tuned",
    "plain, fine-tuned",
)
BESIDE = ("K=3 R=2: scratch, trained as long", "low rank alone 0.525", "low rank alone 0.36")
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


def compression() -> str:
    """Word errors of compressed models against dense ones, over all seeds, with paired bootstrap intervals over utterances."""
    by_system = {}
    for row in (row for row in read("compression") if row["task"] == "asr"):
        by_system.setdefault(row["system"], {})[row["seed"]] = row
    dense = by_system["dense"]
    rows = []
    for system in (*SANITY, *(f"{size}: {method}" for size in SIZES_MEASURED for method in METHODS), *BESIDE):
        runs = by_system.get(system, {})
        if not runs:
            continue
        seeds = sorted(runs)
        ours = np.concatenate([runs[seed]["errors"] for seed in seeds])
        theirs = np.concatenate([dense[seed]["errors"] for seed in seeds])
        words = sum(sum(runs[seed]["words"]) for seed in seeds)
        losses = [statistics.mean(runs[seed][name] for seed in seeds) for name in ("nll_loss", "ctc_loss")]
        row = [
            system,
            f"{runs[seeds[0]]['fraction']:.1%}",
            len(seeds),
            *(f"{loss:.3f}" for loss in losses),
            f"{100 * ours.sum() / words:.2f}",
        ]
        rows.append([*row, "" if system == "dense" else relative_change(ours, theirs)])
    headers = ["system", "kept", "seeds", "dev nll", "dev CTC", "WER", "WER against dense (95 %)"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def relative_change(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The change of the total, and its 95 % interval over resampled utterances, each with both systems' errors."""

    def change(one, two, axis=-1):
        return 100 * (one.sum(axis) / two.sum(axis) - 1)

    interval = stats.bootstrap(
        (ours, theirs), change, paired=True, vectorized=True, n_resamples=2000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    return f"{change(ours, theirs):+.1f} % ({interval.low:+.1f} to {interval.high:+.1f})"


def translation() -> str:
    """One seed: BLEU of a translation model that started from the recognition encoder, before and after."""
    rows = [
        [row["system"], f"{row['fraction']:.1%}", f"{row['nll_loss']:.3f}", f"{row['bleu']:.1f}"]
        for row in read("compression")
        if row["task"] == "st"
    ]
    return tabulate(rows, ["system", "kept", "dev nll", "BLEU"], tablefmt="github", disable_numparse=True)


def ladder() -> str:
    """One seed: what alignment and calibration do at each rank."""
    rows_by = {row["system"]: row for row in read("compression") if row["task"] == "asr" and row["seed"] == 1}
    rows = []
    for rank in (0, 2, 4, 8, 16, 32):
        systems = [rows_by[f"K=3 R={rank}: {method}"] for method in ("plain", "aligned", "calibrated", "aligned + calibrated")]
        cells = [f"{row['nll_loss']:.3f} · {row['ctc_loss']:.3f} · {row['wer']:.1f}" for row in systems]
        rows.append([rank, f"{systems[0]['fraction']:.1%}", *cells])
    headers = ["R", "kept", "plain", "aligned", "calibrated", "aligned + calibrated"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main() -> int:
    text = README.read_text(encoding="utf-8")
    for table in (sizes, step_time, demo, compression, translation, ladder):
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
