"""Compare exported models on this machine: size, memory, load time, latency, speed."""

import argparse
import json
from pathlib import Path

from tabulate import tabulate

from residual_st.cli.arguments import check_writable, list_of
from residual_st.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(extra="runtime")  # the extra that installs the packages this command needs
    parser.add_argument(
        "models", nargs="+", metavar="NAME=DIR", help="exported folders with names; ratios are relative to the first"
    )
    parser.add_argument(
        "--seconds",
        type=list_of(float),
        metavar="S,…",
        help="lengths of the audio in seconds (default: .5,1,5,20, or the fixed length that the models take)",
    )
    parser.add_argument(
        "--threads", type=list_of(int), default=[1, 2], metavar="N,…", help="numbers of threads used by onnxruntime (default: 1,2)"
    )
    parser.add_argument(
        "--audio", type=Path, metavar="FILE", help="recording to translate, to measure the speed from audio to text"
    )
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="repeats of each measurement (default: 7)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("device.jsonl"),
        metavar="FILE",
        help="JSON lines file to append results to (default: device.jsonl)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    folders = {}
    for given in args.models:
        name, _, folder = given.partition("=")
        if not (name and folder) or name in folders:
            raise InputError(f"{given} must have the form NAME=DIR, with a different NAME for each folder")
        folders[name] = Path(folder)
    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats} must be at least 1")
    if args.audio is not None and not args.audio.is_file():
        raise InputError(f"{args.audio} does not exist or is not a file")
    from residual_st.benchmark.device import lengths, measure
    from residual_st.benchmark.results import append, cpu_name, provenance

    check_writable(args.output)
    seconds = lengths(folders, args.seconds)
    source = {**provenance(), "machine": cpu_name()}
    rows = []
    for threads in args.threads:
        for row in measure(folders, threads, seconds, args.repeats, args.audio):
            rows.append({"benchmark": "device", "seed": 1, **row, "repeats": args.repeats, **source})
            append(args.output, rows[-1])
    print(json.dumps(rows, indent=2) if args.json else tabulate([_brief(row) for row in rows], headers="keys"))
    return 0


def _brief(row: dict) -> dict:
    """Sizes in MB, and the ratios of the other measurements."""
    shown = {
        "system": row["system"],
        "threads": row["threads"],
        "encoder MB": row["encoder_file_bytes"] / 1e6,
        "MB": row["file_bytes"] / 1e6,
    }
    for name, value in row.items():
        if name.endswith("_ratio"):
            shown[name.removesuffix("_ratio").replace("_", " ")] = value[0]
    return shown
