"""Tables of sizes, of the demo, and of the loss by compression."""

import statistics

import numpy as np

from residual_st.evaluation.scores import relative_change, score_interval
from residual_st.fairseq.description import describe
from residual_st.fairseq.standalone import build_model, parse_model_flags
from tables.common import github, read, with_bounds
from tables.names import reader_name

SIZES = ["xs", "s", "m", "l", "paper"]
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
BESIDE = ("low rank alone 0.525", "low rank alone 0.36")  # without U


def sizes() -> str:
    """The fraction of weights that sharing keeps of each arch, at K=3."""
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
    return github(rows, ["size", "layers × d", "R", "encoder matrices", "kept", "whole model"])


def demo() -> str:
    """Each system at its best learning rate, mean over seeds."""
    best = {}
    for runs in demo_runs().values():
        row, bleu = runs[0], statistics.mean(run["bleu"] for run in runs)
        if row["system"] not in best or bleu > best[row["system"]][0]:
            best[row["system"]] = bleu, len(runs), row
    rows = [
        [
            name,
            f"{row['lr']:g}",
            f"{bleu:.1f}",
            seeds,
            f"{row['encoder_weight_fraction']:.1%}",
            f"{row['checkpoint_bytes'] / 1e6:.1f} MB",
        ]
        for name, (bleu, seeds, row) in sorted(best.items(), reverse=True)
    ]
    return github(rows, ["encoder", "learning rate", "BLEU", "seeds", "encoder matrices kept", "checkpoint"])


def demo_rates() -> str:
    """BLEU of the demo by learning rate, for each seed."""
    rows = [[system, f"{rate:g}", " ".join(f"{run['bleu']:.1f}" for run in runs)] for (system, rate), runs in demo_runs().items()]
    return github(rows, ["encoder", "learning rate", "BLEU by seed"])


def demo_runs() -> dict[tuple[str, float], list[dict]]:
    """(System, learning rate) -> its runs by seed; the highest learning rates first."""
    runs = {}
    for row in sorted(read("demo"), key=lambda row: (row["system"], -row["lr"], row["seed"])):
        runs.setdefault((row["system"], row["lr"]), []).append(row)
    return runs


def compression() -> str:
    """Word errors of compressed models relative to dense ones, over all seeds, with paired bootstrap intervals over utterances."""
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
        system_errors, dense_errors = ([word_errors(runs_by_seed[seed]) for seed in seeds] for runs_by_seed in (runs, dense))
        losses = [statistics.mean(runs[seed][name] for seed in seeds) for name in ("nll_loss", "ctc_loss")]
        row = [
            reader_name(system),
            f"{runs[seeds[0]]['fraction']:.1%}",
            len(seeds),
            *(f"{loss:.3f}" for loss in losses),
            f"{score_interval('wer', system_errors).value:.2f}",
        ]
        rows.append([*row, "" if system == "dense" else with_bounds(relative_change("wer", system_errors, dense_errors))])
    headers = ["system", "kept", "seeds", "dev nll", "dev CTC", "WER", "WER against dense (95 %)"]
    return github(rows, headers)


def compression_headline() -> str:
    """The increase in word errors of compressed encoders, unrefined and refined, over all seeds."""
    runs = {}
    for row in (row for row in read("compression") if row["task"] == "asr"):
        runs.setdefault(row["system"], []).append(row)
    dense = [word_errors(row) for row in runs["dense"]]
    rows = []
    for name in ("K=3 R=16", "budget 0.36", "K=3 R=2", *BESIDE):
        systems = (f"{name}: aligned + calibrated", f"{name}: refined") if name not in BESIDE else (name, None)
        changes = [relative_change("wer", [word_errors(row) for row in runs[each]], dense) if each else None for each in systems]
        cells = ["" if change is None else with_bounds(change) for change in changes]
        rows.append([reader_name(name), f"{runs[systems[0]][0]['fraction']:.1%}", *cells])
    return github(rows, ["encoder", "kept", "compressed: WER against dense", "refined: WER against dense"])


def word_errors(row: dict) -> np.ndarray:
    """Errors and words of each sentence."""
    return np.column_stack([row["errors"], row["words"]]).astype(float)


def translation() -> str:
    """One seed: BLEU of a translation model that started from the recognition encoder, before and after compression."""
    rows = [
        [reader_name(row["system"]), f"{row['fraction']:.1%}", f"{row['nll_loss']:.3f}", f"{row['bleu']:.1f}"]
        for row in read("compression")
        if row["task"] == "st"
    ]
    return github(rows, ["system", "kept", "dev nll", "BLEU"])


def ladder() -> str:
    """One seed: the effect of alignment and calibration at each rank."""
    rows_by = {row["system"]: row for row in read("compression") if row["task"] == "asr" and row["seed"] == 1}
    rows = []
    for rank in (0, 2, 4, 8, 16, 32):
        systems = [rows_by[f"K=3 R={rank}: {method}"] for method in ("plain", "aligned", "calibrated", "aligned + calibrated")]
        cells = [f"{row['nll_loss']:.3f} · {row['ctc_loss']:.3f} · {row['wer']:.1f}" for row in systems]
        rows.append([rank, f"{systems[0]['fraction']:.1%}", *cells])
    headers = ["R", "kept", "plain", "aligned", "calibrated", "aligned + calibrated"]
    return github(rows, headers)
