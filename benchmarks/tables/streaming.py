"""Tables and a figure from the rows of benchmarks/streaming.py, and a table from those of streaming_encoder.py."""

from statistics import mean

import numpy as np

from residual_st.evaluation.scores import relative_change, score_interval
from residual_st.report.plotting import pyplot
from tables.common import github, read, with_bounds, with_range
from tables.names import reader_name

COUNTS = {"bleu": "counts", "wer": "errors"}
OFFLINE = {"ctc": "offline-ctc"}  # the offline system of each policy, if not `offline`
PICTURE = "\n\n![BLEU against StreamLAAL of talks translated while they are spoken](streaming.svg)"
MARKS = {"local-agreement": "o-", "alignatt": "s--", "ctc": "^-", "retranslation": "v:"}
Case = tuple[str, str, float]  # system, policy, seconds of a chunk


def streaming_translation() -> str:
    """Streaming translation of talks, with the figure."""
    return _talks("translation", "bleu") + (PICTURE if _cases("translation") else "")


def streaming_recognition() -> str:
    """Streaming recognition of talks."""
    return _talks("recognition", "wer")


def streaming_whisper() -> str:
    """Spanish prompts, compared with simulstream's Whisper processor."""
    return _talks("spanish", "bleu")


def _cases(talks: str) -> dict[Case, list[dict]]:
    """The rows of each case, one per seed."""
    cases = {}
    for row in sorted(read("streaming"), key=lambda row: row["seed"]):
        if row["talks"] == talks:
            cases.setdefault((row["system"], row["policy"], row["chunk_seconds"]), []).append(row)
    return cases


def _latency(rows: list[dict], name: str = "stream_laal") -> float:
    return mean(row[name] for row in rows)


def _talks(talks: str, metric: str) -> str:
    """Scores with intervals over sentences, and changes relative to offline and to the dense model at the nearest latency or
    offline."""
    cases, lines = _cases(talks), []
    counts = {case: [np.array(row[COUNTS[metric]], float) for row in rows] for case, rows in cases.items()}
    dense = [case for case in cases if case[0] == "dense" and not _is_offline(case)]

    def change(case: Case, reference_case: Case | None) -> str:
        is_known = reference_case in counts and reference_case != case and len(counts[reference_case]) == len(counts[case])
        return with_bounds(relative_change(metric, counts[case], counts[reference_case])) if is_known else ""

    for case, rows in cases.items():
        system, policy, chunk = case
        offline_case = (system, OFFLINE.get(policy, "offline"), 0.0)
        if _is_offline(case):
            seconds, baseline = ["", "", ""], ("dense", policy, 0.0)
        else:
            ideal, aware = _latency(rows), _latency(rows, "stream_laal_computation_aware")
            seconds = [f"{chunk:g}", f"{ideal:.2f}", f"{aware:.2f} ({aware / ideal:.2f})"]
            baseline = min(dense, key=lambda other: abs(_latency(cases[other]) - ideal), default=None)
        label = [reader_name(system), policy, *seconds]
        score = str(score_interval(metric, counts[case]))
        against = "" if system == "dense" else change(case, baseline)
        lines.append([*label, score, change(case, offline_case), against, f"{_latency(rows, 'real_time_factor'):.3f}"])
    lag = ["chunk, s", "StreamLAAL, s", "with computing (times)"]
    score = f"{metric.upper()} (95 %)"
    return github(lines, ["encoder", "policy", *lag, score, "against its own offline", "against dense", "real-time factor"])


def _is_offline(case: Case) -> bool:
    return case[1].startswith("offline")


def picture(path) -> None:
    """Draw BLEU against StreamLAAL as PATH.svg, unless there are no rows. Dotted lines show each model offline."""
    cases = _cases("translation")
    if not cases:
        return
    figure, axis = pyplot.subplots(figsize=(7.2, 3.4), layout="constrained")
    systems = list(dict.fromkeys(system for system, _, _ in cases))
    for system, policy in dict.fromkeys(case[:2] for case in cases):
        rows = [rows for case, rows in cases.items() if case[:2] == (system, policy)]
        colour, points = f"C{systems.index(system)}", sorted((_latency(each), _latency(each, "bleu")) for each in rows)
        if policy == "offline":
            axis.axhline(points[0][1], color=colour, linestyle=":", linewidth=1)
        elif policy in MARKS:
            axis.plot(*zip(*points), MARKS[policy], color=colour, label=f"{reader_name(system)}: {policy}")
    axis.set(xlabel="StreamLAAL, s", ylabel="BLEU")
    axis.set_xlim(left=0)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    pyplot.close(figure)


def streaming_encoder() -> str:
    """Encoding a chunk compared with recomputing its window, and memory and time of a long stream, from the longest row of each
    case."""
    rows = sorted(read("streaming_encoder"), key=lambda row: row["hours"])
    longest = {(-row["left_chunks"], row["system"], row["precision"]): row for row in rows}
    lines = [
        [
            f"{row['system']}, {row['precision']}",
            row["left_chunks"],
            f"{1000 * row['chunked_seconds']:.1f}",
            f"{1000 * row['recomputed_seconds']:.0f}",
            with_range(row),
            f"{60 * row['hours']:.0f}",
            f"{row['first_minute_bytes'] / 1e6:.1f} → {row['last_minute_bytes'] / 1e6:.1f} ({row['memory_ratio'] - 1:+.1%})",
            f"{1000 * row['first_minute_chunk_seconds']:.1f} → {1000 * row['last_minute_chunk_seconds']:.1f}",
        ]
        for _, row in sorted(longest.items(), key=lambda item: item[0])
    ]
    stream = ["minutes of the stream", "MB, after the first minute → at the end", "ms a chunk, first → last minute"]
    return github(lines, ["encoder", "L", "ms a chunk", "ms a window", "times less", *stream])
