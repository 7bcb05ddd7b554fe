"""Fill the tables of README.md and docs/, and draw the pictures, from results/*.jsonl and from the architectures themselves.

python benchmarks/readme.py
"""

import re
import statistics
import sys
from functools import cache
from pathlib import Path

import numpy as np
from tabulate import tabulate

from residual_st.benchmark import plots, results
from residual_st.benchmark.comparison import METRICS, compare
from residual_st.benchmark.comparison import SANITY as SANITY_SYSTEMS
from residual_st.benchmark.footprint import PARTS
from residual_st.benchmark.systems import GROUPS
from residual_st.evaluation.scores import Estimate, relative_change, score_interval
from residual_st.models.description import describe
from residual_st.models.standalone import build_model, parse_model_flags
from residual_st.report.figures import pareto

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
MEASURES = {"wer": "WER", "ctc_wer": "WER, encoder alone", "bleu": "BLEU"}
GRID = re.compile(r"k(\d+)-r(\d+)")  # systems of the matrix that differ in group size and rank alone
TEACHING = re.compile(r"brief-|long-")  # and in how they were taught
SHOWN_APART = re.compile(f"{GRID.pattern}|{TEACHING.pattern}")
SIZES = ["xs", "s", "m", "l", "paper"]


def read(name: str) -> list[dict]:
    return results.read(RESULTS / f"{name}.jsonl")


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


def latency() -> str:
    """Encoder latency of the two inference modes over stock's, by length of audio."""
    rows = {}
    lengths = sorted({row["seconds"] for row in of_encoder()})
    for row in of_encoder():
        if row["layers"] == 12 and row["rank"] == 16:
            key = (row["width"], row["threads"], row["batch"])
            rows.setdefault(key, {})[row["system"], row["seconds"]] = with_range(row)
    systems = [(system, length) for system in ("compact", "fast") for length in lengths]
    table = [[*key, *(cells.get(column, "") for column in systems)] for key, cells in sorted(rows.items())]
    headers = ["d", "threads", "batch", *(f"{system}, {length:g} s" for system, length in systems)]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def depth() -> str:
    """Latency and memory of the stack against the number of layers, four groups throughout."""
    times = {}
    for row in of_encoder():
        if row["layers"] == GROUPS * row["group_size"] and row["system"] == "compact" and row["rank"] == 16 and row["batch"] == 1:
            times.setdefault((row["width"], row["layers"]), {})[row["seconds"], row["threads"]] = with_range(row)
    table = []
    for row in sorted(newest("memory"), key=lambda row: (row["width"], row["rank"], row["layers"])):
        if row["part"] == "layers" and row["system"] == "compact" and row["layers"] == GROUPS * row["group_size"]:
            time = times.get((row["width"], row["layers"]), {}).get((5, 2), "") if row["rank"] == 16 else ""
            megabytes = [f"{row[key] / 1e6:.0f}" for key in ("stock_steady_bytes", "steady_bytes")]
            table.append([row["width"], row["rank"], row["layers"], *megabytes, f"{row['steady_bytes_ratio']:.2f}", time])
    headers = ["d", "R", "layers", "stock, MB", "compact, MB", "memory ratio", "latency ratio, 5 s"]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def forms() -> str:
    """Latency at other ranks."""
    table = []
    for row in of_encoder():
        if row["layers"] == 12 and row["seconds"] == 5 and row["batch"] == 1 and row["threads"] == 2:
            table.append([row["width"], row["group_size"], row["rank"], row["system"], with_range(row)])
    return tabulate(sorted(table), ["d", "K", "R", "mode", "encoder / stock"], tablefmt="github", disable_numparse=True)


def updates() -> str:
    """Training updates over stock's."""
    rows = sorted(
        (row for row in newest("speed") if row["measure"] == "update"),
        key=lambda row: (row["width"], row["frames"], -row["dropout"]),
    )
    table = [[row["width"], f"{row['frames']:,}", f"{row['dropout']:g}", with_range(row)] for row in rows]
    return tabulate(table, ["d", "frames", "dropout", "update / stock"], tablefmt="github", disable_numparse=True)


def memory() -> str:
    """Memory of processes, and the way from the file to the first output."""
    table = []
    for row in sorted(newest("memory"), key=lambda row: (row["width"], -row["rank"], PARTS.index(row["part"]), row["system"])):
        if row["layers"] != 12:
            continue
        held = f"{row['stock_steady_bytes'] / 1e6:.0f} → {row['steady_bytes'] / 1e6:.0f}"
        ratio = f"{row['steady_bytes_ratio']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"
        times = [f"{row[key]:.2f}" if key in row else "" for key in ("seconds_to_load_ratio", "seconds_to_first_output_ratio")]
        part = row["part"] if row["part"] == "training" else f"{row['part']}, {row['system']}"
        read_ratio = f"{row['bytes_read_ratio']:.2f}"
        table.append([row["width"], row["rank"], part, held, ratio, f"{row['peak_bytes_ratio']:.2f}", read_ratio, *times])
    headers = ["d", "R", "what", "MB held", "held", "peak", "bytes read", "time to load", "to first output"]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def recompute() -> str:
    """W composed again in the backward pass, against W kept."""
    table = []
    for row in read("recompute"):
        held = f"{row['kept_held_bytes'] / 1e6:,.0f} → {row['held_bytes'] / 1e6:,.0f}"
        table.append([row["width"], f"{row['frames']:,}", with_range(row), held])
    headers = ["d", "frames", "time, recomputed / kept", "MB held for the backward pass, kept → recomputed"]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def generate() -> str:
    """fairseq-generate from end to end."""
    table = [
        [row["checkpoint"], row["system"], row["sentences"], row["different_translations"], with_range(row)]
        for row in read("generate")
    ]
    headers = ["checkpoint", "mode", "sentences", "translated otherwise", "time / stock"]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def exchange() -> str:
    """Bytes of an update, counted between two processes, and of what it leaves behind."""
    table = []
    for row in read("gradient_exchange"):
        name = f"{row['layers']} × {row['width']}, R={row['rank']}"
        for label, key in (
            ("gradients exchanged", "exchanged_bytes"),
            ("of the encoder's layers", "of_encoder_layers_bytes"),
            ("optimizer state", "optimizer_bytes"),
            ("checkpoint", "checkpoint_bytes"),
            ("checkpoint with optimizer", "checkpoint_with_optimizer_bytes"),
        ):
            stock, ours = row[f"stock_{key}"], row[key]
            table.append([name, label, f"{stock / 1e6:.0f}", f"{ours / 1e6:.0f}", f"{ours / stock:.3f}"])
    return tabulate(table, ["encoder", "MB", "stock", "residual", "ratio"], tablefmt="github", disable_numparse=True)


def network() -> str:
    """Time that a ring of eight takes for the counted gradients of the paper's encoder, by what one link carries."""
    row = next(row for row in read("gradient_exchange") if row["layers"] == 18 and row["rank"] == 2)
    table = []
    for name, bytes_a_second in (("1 Gb/s", 1.25e8), ("10 Gb/s", 1.25e9), ("100 Gb/s", 1.25e10), ("NVLink, 300 GB/s", 3e11)):
        times = [1e3 * 2 * 7 / 8 * row[key] / bytes_a_second for key in ("stock_exchanged_bytes", "exchanged_bytes")]
        table.append([name, *(f"{time:,.1f}" for time in times)])
    return tabulate(table, ["link", "stock, ms", "residual, ms"], tablefmt="github", disable_numparse=True)


def with_range(row: dict) -> str:
    return f"{row['ratio']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"


def of_encoder() -> list[dict]:
    return [row for row in newest("speed") if row["measure"] == "encoder"]


def newest(name: str) -> list[dict]:
    """The last row of each case of a benchmark on a CPU."""
    cases = (
        "system",
        "part",
        "measure",
        "threads",
        "batch",
        "seconds",
        "frames",
        "width",
        "layers",
        "group_size",
        "rank",
        "dropout",
    )
    return list({tuple(row.get(key) for key in cases): row for row in read(name) if row["device"] == "cpu"}.values())


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
        ours, theirs = ([word_errors(its[seed]) for seed in seeds] for its in (runs, dense))
        losses = [statistics.mean(runs[seed][name] for seed in seeds) for name in ("nll_loss", "ctc_loss")]
        row = [
            system,
            f"{runs[seeds[0]]['fraction']:.1%}",
            len(seeds),
            *(f"{loss:.3f}" for loss in losses),
            f"{score_interval('wer', ours).value:.2f}",
        ]
        rows.append([*row, "" if system == "dense" else with_bounds(relative_change("wer", ours, theirs))])
    headers = ["system", "kept", "seeds", "dev nll", "dev CTC", "WER", "WER against dense (95 %)"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def word_errors(row: dict) -> np.ndarray:
    """Errors and words of each sentence."""
    return np.column_stack([row["errors"], row["words"]]).astype(float)


def with_bounds(change: Estimate) -> str:
    return f"{change.value:+.1f} % ({change.low:+.1f} to {change.high:+.1f})"


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


@cache
def compared() -> list[dict]:
    return compare(read("quality"), significance=True)


def sanity() -> str:
    """Whether the task can tell: the dense model without its layers, with a third of them, and one trained with a third."""
    return measures_of([entry for entry in compared() if entry["system"] in SANITY_SYSTEMS])


def quality() -> str:
    """What was made with several seeds, one line a system."""
    rows, metrics = {}, [metric for its in METRICS.values() for metric in its]
    for entry in compared():
        if entry["seeds"] > 1 and entry["system"] not in ("bypassed", "every-third-layer"):
            row = rows.setdefault(entry["system"], {"kept": f"{entry['fraction']:.1%}"})
            row[entry["metric"]] = f"{entry['score'].value:.1f}"
            if entry["change_percent"]:
                row[entry["metric"]] += f", {with_bounds(entry['change_percent'])}"
    table = [[name, row["kept"], *(row.get(metric, "") for metric in metrics)] for name, row in rows.items()]
    return tabulate(table, ["encoder", "kept", *map(MEASURES.get, metrics)], tablefmt="github", disable_numparse=True)


def quality_seeds() -> str:
    """The same with intervals of the scores themselves, the seeds and what a run took."""
    return measures_of([entry for entry in compared() if entry["seeds"] > 1 and entry["system"] not in SANITY_SYSTEMS[1:]])


def quality_forms() -> str:
    """What was made with one seed, but for what has a table of its own."""
    chosen = [entry for entry in compared() if entry["seeds"] == 1 and not SHOWN_APART.match(entry["system"])]
    return measures_of(chosen)


def quality_teaching() -> str:
    """One seed: ways to teach, and how they were chosen, which is by dev losses."""
    rows = {row["system"]: row for row in read("quality") if (row["task"], row["seed"]) == ("asr", 1)}
    table = [
        [name, row["updates"], f"{row['dev_nll_loss']:.3f}", f"{row['dev_ctc_loss']:.3f}", f"{row['wer']:.2f}"]
        for name, row in rows.items()
        if name in ("dense", "residual-0.34") or TEACHING.match(name)
    ]
    return tabulate(table, ["system", "updates", "dev nll", "dev CTC", "WER"], tablefmt="github", disable_numparse=True)


def quality_grid() -> str:
    """Group sizes against ranks: what is kept, the word error rate, and the encoder's own."""
    cells = {}
    for entry in compared():
        place = GRID.fullmatch(entry["system"])
        if place and entry["task"] == "asr":
            cell = cells.setdefault(tuple(map(int, place.groups())), [f"{entry['fraction']:.1%}"])
            cell.append(f"{entry['score'].value:.1f}")
    group_sizes, ranks = (sorted(set(values)) for values in (zip(*cells) if cells else ((), ())))
    table = [[group_size, *(" · ".join(cells.get((group_size, rank), [])) for rank in ranks)] for group_size in group_sizes]
    return tabulate(table, ["K", *(f"R={rank}" for rank in ranks)], tablefmt="github", disable_numparse=True)


def measures_of(entries: list[dict]) -> str:
    """A line for each system and measure."""
    rows = []
    for entry in sorted(entries, key=lambda entry: (entry["task"], METRICS[entry["task"]].index(entry["metric"]))):
        score = entry["score"]
        rows.append(
            [
                MEASURES[entry["metric"]],
                entry["system"],
                f"{entry['fraction']:.1%}",
                f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})",
                "" if entry["change_percent"] is None else with_bounds(entry["change_percent"]),
                " ".join(f"{value:.1f}" for value in entry["by_seed"]),
                f"{entry['chrf']:.1f}",
                f"{entry['p_value']:.3f}" if "p_value" in entry else "",
                f"{entry['core_minutes']:.0f}",
            ]
        )
    headers = ["measure", "system", "kept", "score (95 %)", "against dense (95 %)", "by seed", "chrF", "p", "core minutes"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def distillation() -> str:
    """What an update costs with a teacher."""
    cases = {}
    for row in read("distillation_cost"):
        case = (f"{row['layers']} × {row['width']}", row["frames"], row["dropout"])
        cases.setdefault(case, {})[row["system"]] = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"
    rows = [[*case, *(ratios[name] for name in ("cached", "live", "live, states"))] for case, ratios in cases.items()]
    headers = ["layers × d", "frames", "dropout", "cached words", "live, words", "live, words and states"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


TABLES = (
    sanity, quality, quality_seeds, quality_forms, quality_teaching, quality_grid, distillation,
    sizes, latency, depth, forms, updates, memory, recompute, generate, exchange, network, demo, compression, translation, ladder
)  # fmt: skip


def main() -> int:
    tables = {table.__name__: table for table in TABLES}
    root = README.parent
    for path in (README, *sorted((root / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"^<!-- (\w+) -->$", text, re.MULTILINE):
            if name == "end":
                continue
            if name not in tables:
                print(f"{path.name} has a place for {name}, which is no table", file=sys.stderr)
                return 2
            start, end = f"<!-- {name} -->\n", "<!-- end -->"
            before, _, rest = text.partition(start)
            text = before + start + tables[name]() + "\n" + end + rest.partition(end)[2]
        path.write_text(text, encoding="utf-8")
    shown = [entry for entry in compared() if entry["metric"] == "ctc_wer" and entry["seeds"] > 1 and entry["fraction"]]
    if shown:
        (root / "docs" / "quality.svg").write_text(pareto(shown, "ctc_wer", "dense"), encoding="utf-8")
    plots.draw("speed", newest("speed"), root / "docs" / "speed")
    plots.draw("memory", newest("memory"), root / "docs" / "memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
