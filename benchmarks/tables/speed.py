"""Tables of time, memory and bytes."""

import math
import statistics

from residual_st.benchmark.footprint import PARTS
from residual_st.benchmark.systems import GROUPS, Shape
from residual_st.fairseq.standalone import build_model
from residual_st.sharing.product import positions_to_compose
from tables.common import github, read, with_range

LINKS = {"1 Gb/s": 1.25e8, "10 Gb/s": 1.25e9, "100 Gb/s": 1.25e10, "NVLink, 300 GB/s": 3e11}  # bytes per second
_RECIPE_FRAMES, _RECIPE_UPDATES = 40_000, 100_000  # per GPU, and in total: fairseq's MuST-C recipe on eight GPUs


def latency_on_epyc() -> str:
    return latency("speed_epyc")


def latency(results: str = "speed", systems: tuple[str, ...] = ("compact", "fast")) -> str:
    """Encoder latency of some systems relative to dense, by length of audio."""
    rows = {}
    lengths = sorted({row["seconds"] for row in of_encoder(results)})
    for row in of_encoder(results):
        if row["layers"] == 12 and row["rank"] == 16:
            key = (row["width"], row["threads"], row["batch"])
            rows.setdefault(key, {})[row["system"], row["seconds"]] = with_range(row)
    columns = [(system, length) for system in systems for length in lengths]
    table = [[*key, *(cells.get(column, "") for column in columns)] for key, cells in sorted(rows.items())]
    headers = ["d", "threads", "batch", *(f"{system}, {length:g} s" for system, length in columns)]
    return github(table, headers)


def latency_tuned() -> str:
    """Encoder latency in compact mode relative to dense, with the fixed rule and tuned, by length of audio."""
    return latency("speed_rule", ("compact", "tuned"))


def depth() -> str:
    """Latency and memory of the stack by number of layers, always with four groups."""
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
    headers = ["d", "R", "layers", "dense, MB", "shared, MB", "memory ratio", "latency ratio, 5 s"]
    return github(table, headers)


def forms() -> str:
    """Latency by rank."""
    table = []
    for row in of_encoder():
        if row["layers"] == 12 and row["seconds"] == 5 and row["batch"] == 1 and row["threads"] == 2:
            table.append([row["width"], row["group_size"], row["rank"], row["system"], with_range(row)])
    return github(sorted(table), ["d", "K", "R", "mode", "shared / dense"])


def updates() -> str:
    """Time of training updates relative to dense."""
    rows = sorted(
        (row for row in newest("speed") if row["measure"] == "update"),
        key=lambda row: (row["width"], row["frames"], -row["dropout"]),
    )
    table = [[row["width"], f"{row['frames']:,}", f"{row['dropout']:g}", with_range(row)] for row in rows]
    return github(table, ["d", "frames", "dropout", "shared / dense"])


def both_halves() -> str:
    """Beam search and updates of models with shared encoder and decoder, relative to dense."""
    table = []
    for row in sorted(newest("speed_both"), key=lambda row: (row["measure"], row["width"], row["threads"], row.get("batch", 0))):
        searching = row["measure"] == "beam"
        what = f"beam search, batch of {row['batch']}" if searching else f"update, dropout {row['dropout']:g}"
        mode = row["system"] if searching else ""
        table.append([row["width"], row["threads"], what, mode, with_range(row)])
    return github(table, ["d", "threads", "what", "mode", "shared / dense"])


def conformers() -> str:
    """Encoder latency and training updates of `s2t_conformer` relative to dense."""
    attention = {"": "fairseq's, absolute", "--attn-type espnet --pos-enc-type rel_pos": "ESPnet's, relative"}
    table = {}
    for row in newest("speed_conformer"):
        if row["measure"] == "update":
            what, mode = f"update, {row['frames']:,} frames, dropout {row['dropout']:g}", ""
        else:
            what, mode = f"encoder, {row['batch']} × {row['seconds']:g} s", row["system"]
        table.setdefault((what, mode), {})[row["model_flags"]] = with_range(row)
    rows = [[*key, *(ratios.get(flags, "") for flags in attention)] for key, ratios in table.items()]
    return github(rows, ["what", "mode", *attention.values()])


def on_gpu() -> str:
    """Encoder latency and training updates on a GPU relative to dense, by precision."""
    table = {}
    for row in newest("speed_gpu", "cuda"):
        if row["measure"] == "update":
            what, mode = f"update, {row['frames']:,} frames, dropout {row['dropout']:g}", ""
        else:
            what, mode = f"encoder, {row['batch']} × {row['seconds']:g} s", row["system"]
        table.setdefault((row["width"], what, mode), {})[row["precision"]] = with_range(row)
    precisions = ("float32", "float16", "bfloat16")
    rows = [[*case, *(cells.get(precision, "") for precision in precisions)] for case, cells in table.items()]
    return github(rows, ["d", "what", "mode", *precisions])


def memory() -> str:
    """Memory of processes, and times to load a file and to the first output."""
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
    return github(table, headers)


def recompute() -> str:
    """Recomputing W in the backward pass, compared with keeping it."""
    table = []
    for row in read("recompute"):
        held = f"{row['kept_held_bytes'] / 1e6:,.0f} → {row['held_bytes'] / 1e6:,.0f}"
        table.append([row["width"], f"{row['frames']:,}", with_range(row), held])
    headers = ["d", "frames", "time, recomputed / kept", "MB held for the backward pass, kept → recomputed"]
    return github(table, headers)


def generate() -> str:
    """fairseq-generate from end to end."""
    table = [
        [row["checkpoint"], row["system"], row["sentences"], row["different_translations"], with_range(row)]
        for row in read("generate")
    ]
    headers = ["checkpoint", "mode", "sentences", "different translations", "shared / dense"]
    return github(table, headers)


def exchange() -> str:
    """Bytes that two processes exchange per update, and bytes of checkpoints."""
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
            stock, residual = row[f"stock_{key}"], row[key]
            table.append([name, label, f"{stock / 1e6:.0f}", f"{residual / 1e6:.0f}", f"{residual / stock:.3f}"])
    return github(table, ["encoder", "MB", "dense", "shared", "ratio"])


def network() -> str:
    """Time of a ring of eight to exchange the gradients of the paper's encoder, by bandwidth of a link."""
    row = next(row for row in read("gradient_exchange") if row["layers"] == 18 and row["rank"] == 2)
    table = []
    for name, bytes_a_second in LINKS.items():
        times = [1e3 * in_ring(row[key], bytes_a_second) for key in ("stock_exchanged_bytes", "exchanged_bytes")]
        table.append([name, *(f"{time:,.1f}" for time in times)])
    return github(table, ["link", "dense, ms", "shared, ms"])


def in_ring(size: int, bytes_a_second: float) -> float:
    """Seconds of a ring all-reduce over eight processes for this size."""
    return 2 * 7 / 8 * size / bytes_a_second


def must_c() -> str:
    """Time of the recipe's updates on eight GPUs: the measured update of one GPU plus the exchange of gradients in a ring."""
    table = []
    for row in [*newest("speed_gpu", "cuda"), *newest("gpu", "cuda")]:
        if row["measure"] != "update" or row["frames"] != _RECIPE_FRAMES or row.get("compiled"):
            continue
        shape = Shape(row["width"], row["layers"], row["group_size"], row["rank"])
        counts = [_parameters(shape, system) for system in ("stock", "compact")]
        updates = [row["stock_seconds"], row["median_seconds"]]
        cells = ["{:.0f} → {:.0f}".format(*(1e3 * seconds for seconds in updates))]
        cells.append("{:.2f} → {:.2f}".format(*(16e-9 * count for count in counts)))
        for link in ("NVLink, 300 GB/s", "100 Gb/s", "10 Gb/s"):
            each = [seconds + in_ring(4 * count, LINKS[link]) for seconds, count in zip(updates, counts)]
            cells.append("{:.1f} → {:.1f}".format(*(_RECIPE_UPDATES * seconds / 3600 for seconds in each)))
        table.append([f"{row['layers']} × {row['width']}, R={row['rank']}", row["precision"], *cells])
    memory = "weights, gradients, moments, GB a GPU"
    return github(table, ["encoder", "precision", "update, ms", memory, "hours, NVLink", "hours, 100 Gb/s", "hours, 10 Gb/s"])


def _parameters(shape: Shape, system: str) -> int:
    return sum(parameter.numel() for parameter in build_model(shape.flags(system), device="meta").parameters())


def distillation() -> str:
    """The cost of an update with a teacher."""
    cases = {}
    for row in read("distillation_cost"):
        case = (f"{row['layers']} × {row['width']}", row["frames"], row["dropout"])
        cases.setdefault(case, {})[row["system"]] = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"
    rows = [[*case, *(ratios[name] for name in ("cached", "live", "live, states"))] for case, ratios in cases.items()]
    headers = ["layers × d", "frames", "dropout", "cached words", "live teacher, words", "live teacher, words and states"]
    return github(rows, headers)


def of_encoder(results: str = "speed") -> list[dict]:
    return [row for row in newest(results) if row["measure"] == "encoder"]


def product_rule() -> str:
    """The cost of each rule for composing relative to the faster way, on the cases of `benchmarks/product_rule.py`."""
    rules = {
        "the fixed rule": lambda row: positions_to_compose(row["out"], row["in"]),
        "`tune_products`": lambda row: row["tuned"],
        "always composed": lambda row: 0,
        "never composed": lambda row: math.inf,
    }
    rows = read("product_rule")
    table = []
    for threads in sorted({row["threads"] for row in rows}):
        costs = {name: [_cost(row, rule(row)) for row in rows if row["threads"] == threads] for name, rule in rules.items()}
        table += [[threads, name, f"{statistics.mean(cost):.1%}", f"{max(cost):.0%}"] for name, cost in costs.items()]
    return github(table, ["threads", "rule", "mean", "worst"])


def _cost(row: dict, compose_from: float) -> float:
    """How much slower the chosen way is than the other, 0 if it is faster. The ratio is composed over factors."""
    ratio = row["ratio"] if row["positions"] >= compose_from else 1 / row["ratio"]
    return max(ratio - 1, 0.0)


def newest(name: str, device: str = "cpu") -> list[dict]:
    """The latest row of each case of a benchmark on a device."""
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
        "precision",
        "model_flags",
    )
    return list({tuple(row.get(key) for key in cases): row for row in read(name) if row["device"] == device}.values())
