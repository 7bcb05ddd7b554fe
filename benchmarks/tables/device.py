"""Exported models: bytes, memory, latency, BLEU."""

import numpy as np
from training_runs.counts import counts_of

from residual_st.evaluation.scores import relative_change, score_interval
from residual_st.report.plotting import pyplot
from tables.common import github, read, with_bounds, with_range
from tables.names import reader_name

LENGTHS = ("0.5", "1", "5", "20")


def device_size() -> str:
    """File size and encoder memory for each model size, relative to the dense model in fp32."""
    table = []
    for row in _newest():
        if row["threads"] == 1:
            base = next(each for each in _newest() if each["size"] == row["size"] and each["system"] == "dense, fp32")
            files = [row[name] / 1e6 for name in ("encoder_file_bytes", "file_bytes")]
            parts = [base[name] / row[name] for name in ("encoder_file_bytes", "file_bytes")]
            cells = [f"{size:.1f} (1/{part:.1f})" for size, part in zip(files, parts)]
            memory = [
                f"{row[name] / 1e6:.1f} ({row[f'{name}_ratio'][0]:.2f})"
                for name in ("encoder_steady_bytes", "encoder_peak_bytes", "process_bytes")
            ]
            table.append([row["size"], reader_name(row["system"]), *cells, *memory, f"{row['load_seconds']:.2f}"])
    headers = ["", "system", "encoder, MB", "all, MB", "in memory, MB", "at most, MB", "with the library, MB", "s to load"]
    return github(table, headers)


def device_forms() -> str:
    """Megabytes and relative latency of each form in int8, for the choice of K and R."""
    table = []
    for row in sorted(_newest(), key=lambda row: "sm".index(row["size"])):
        if row["threads"] == 1 and row["precision"] == "int8":
            form = reader_name(row["system"]).removesuffix(", int8")
            cost = encoder_cost(row["size"], row["system"], "dense, int8")
            table.append([f"`_{row['size']}`", form, cost["file"], f"{row['file_bytes'] / 1e6:.1f} MB", cost["latency"]])
    return github(table, ["size", "encoder", "encoder's file", "whole model", "latency"])


def encoder_cost(size: str, system: str, base: str) -> dict[str, str]:
    """The file size of an encoder, and its latency on one thread relative to `base`."""
    rows = {row["system"]: row for row in _newest() if (row["size"], row["threads"]) == (size, 1)}
    latency = rows[system]["latency_5s"] / rows[base]["latency_5s"]
    return {"file": f"{rows[system]['encoder_file_bytes'] / 1e6:.1f} MB", "latency": f"{latency:.2f}"}


def device_latency() -> str:
    """The encoder's latency relative to the dense model in fp32, by seconds of audio."""
    table = []
    for row in _newest():
        cells = []
        for length in LENGTHS:
            middle, low, high = row[f"latency_{length}s_ratio"]
            cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f})" if row["system"] != "dense, fp32" else "1")
        table.append([row["size"], row["threads"], reader_name(row["system"]), *cells])
    return github(table, ["", "threads", "system", *(f"{length} s" for length in LENGTHS)])


def device_baselines() -> str:
    """Time relative to the dense model in torch."""
    rows = {}
    for row in read("device_rivals"):
        rows.setdefault(row["system"], {})[f"{row['seconds']:g}"] = with_range(row)
    table = [[name, *(cells[length] for length in LENGTHS)] for name, cells in rows.items()]
    return github(table, ["", *(f"{length} s" for length in LENGTHS)])


def device_quality() -> str:
    """BLEU, its change by rounding, and the time and memory of commands."""
    table, rows = [], read("device_quality")
    for row in rows:
        base = next(each for each in rows if (each["system"], each["precision"]) == (row["system"], "fp32"))
        counts, base_counts = [counts_of(row, "bleu")], [counts_of(base, "bleu")]
        table.append(
            [
                reader_name(row["system"]),
                row["precision"],
                f"{row['bytes'] / 1e6:.2f}",
                f"{row['bleu']:.1f}",
                "" if row is base else with_bounds(relative_change("bleu", counts, base_counts)),
                f"{row['fairseq_bleu']:.1f}",
                f"{100 * row['same_texts']:.1f} %",
                f"{row['times_real_time']:.0f}",
                f"{row['seconds_to_start']:.2f}",
                f"{row['more_bytes_after_500'] / 1e6:.1f}",
            ]
        )
    return github(
        table,
        [
            "system",
            "precision",
            "MB",
            "BLEU",
            "change of BLEU (95 %)",
            "fairseq-generate",
            "same texts",
            "times real time",
            "one file, s",
            "MB after 500 more",
        ],
    )


def device_whisper() -> str:
    """Whisper on human speech. Times are relative to transformers in fp32."""
    rows = read("device_whisper")
    words = {row["system"]: row for row in rows if row["measure"] == "words"}
    table = []
    for row in rows:
        if row["measure"] != "speed":
            continue
        name, memory = row["system"], row.get("encoder_steady_bytes")
        table.append(
            [
                name,
                f"{row['file_bytes'] / 1e6:.1f}",
                "" if memory is None else f"{memory / 1e6:.1f}",
                *(
                    with_range({key.removeprefix(f"{part}_"): value for key, value in row.items()})
                    for part in ("encode", "transcribe")
                ),
                *(_word_errors(words[name], words["dense, fp32"]) if name in words else ["", "", ""]),
            ]
        )
    headers = [
        "system",
        "MB",
        "encoder in memory, MB",
        "encoder, time",
        "all, time",
        "WER (95 %)",
        "change (95 %)",
        "repetition loops",
    ]
    return github(table, headers)


def _word_errors(row: dict, base: dict) -> list:
    """WER, its change relative to the base, and repetition loops."""
    counts, base_counts = ([np.array([each["errors"], each["words"]], float).T] for each in (row, base))
    change = "" if row is base else with_bounds(relative_change("wer", counts, base_counts))
    return [str(score_interval("wer", counts)), change, row["runaways"]]


def picture(path) -> None:
    """Size `_s`, one thread: megabytes of the encoder's file against its latency on five seconds, as PATH.svg.

    Dotted lines show the dense model in int8: models left of the vertical line are smaller.
    """
    rows = [row for row in _newest() if (row["size"], row["threads"]) == ("s", 1) and "decoder" not in row["system"]]
    figure, axis = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
    markers = {"fp32": "o", "int8": "s", "int4": "^"}
    forms = list(dict.fromkeys(row["system"].rpartition(", ")[0] for row in rows))
    for row in rows:
        form, _, precision = row["system"].rpartition(", ")
        place = row["encoder_file_bytes"] / 1e6, row["latency_5s_ratio"][0]
        axis.scatter(*place, color=f"C{forms.index(form)}", marker=markers[precision], label=reader_name(row["system"]), zorder=2)
    dense = next(row for row in rows if row["system"] == "dense, int8")
    axis.axvline(dense["encoder_file_bytes"] / 1e6, color="#444444", linestyle=":", linewidth=1)
    axis.axhline(dense["latency_5s_ratio"][0], color="#444444", linestyle=":", linewidth=1)
    axis.set_title("s2t_transformer_s, one thread", fontsize=10)
    axis.set(xlabel="encoder file, MB", ylabel="latency for 5 s of audio / dense, fp32", xscale="log", ylim=(0, None))
    axis.set_xticks([3, 5, 10, 20, 50], ["3", "5", "10", "20", "50"])
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    pyplot.close(figure)


def _newest() -> list[dict]:
    """The latest row of each case."""
    rows = {(row["size"], row["threads"], row["system"]): row for row in read("device")}
    return list(rows.values())
