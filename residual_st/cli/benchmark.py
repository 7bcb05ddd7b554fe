"""Measure speed and memory of shared and dense models, or compare exported models on this machine."""

import argparse
import json
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from tabulate import tabulate

from residual_st.cli import benchmark_device
from residual_st.cli.arguments import check_writable, list_of, summary_of
from residual_st.errors import InputError
from residual_st.progress import progress

_MEASURES = ("encoder", "layers", "update", "both")


class _Case(Protocol):
    @property
    def device(self) -> str: ...

    def row(self) -> dict: ...


_Measured = TypeVar("_Measured", bound=_Case)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="benchmark", required=True, metavar="speed|memory|device")
    fast = kinds.add_parser(
        "speed", help="encoder latency, time of training updates, and beam search with shared encoder and decoder"
    )
    fast.add_argument(
        "--measures",
        type=list_of(str),
        default=list(_MEASURES),
        metavar="M,…",
        help=f"what to measure, from {', '.join(_MEASURES)} (default: all)",
    )
    fast.add_argument(
        "--seconds",
        type=list_of(float),
        default=[1, 5, 20],
        metavar="S,…",
        help="lengths of the audio in seconds (default: 1,5,20)",
    )
    fast.add_argument("--batches", type=list_of(int), default=[1, 8], metavar="N,…", help="utterances per batch (default: 1,8)")
    fast.add_argument(
        "--threads", type=list_of(int), default=[1, 2], metavar="N,…", help="numbers of threads used by torch (default: 1,2)"
    )
    fast.add_argument(
        "--frames",
        type=list_of(int),
        default=[10_000, 40_000],
        metavar="N,…",
        help="audio frames of 10 ms per training batch (default: 10000,40000)",
    )
    fast.add_argument(
        "--dropouts", type=list_of(float, 0), default=[0.1, 0.0], metavar="P,…", help="dropout rates in training (default: 0.1,0)"
    )
    fast.add_argument(
        "--tuned", action="store_true", help="also measure the encoder with products tuned to this machine (tune_products)"
    )
    fast.add_argument(
        "--arch", default="s2t_transformer_s", metavar="NAME", help="architecture of both models (default: s2t_transformer_s)"
    )
    fast.add_argument("--model-flags", default="", metavar='"FLAG …"', help="further model flags for both models, as one argument")
    slow = kinds.add_parser("memory", help="process memory, bytes read, and time from opening the file to the first output")
    benchmark_device.add_arguments(
        kinds.add_parser("device", help=summary_of(benchmark_device), description=benchmark_device.__doc__)
    )
    for kind in (fast, slow):
        kind.add_argument(
            "--widths",
            type=list_of(int),
            default=[256, 512],
            metavar="D,…",
            help="embedding widths of the encoder (default: 256,512)",
        )
        kind.add_argument("--ranks", type=list_of(int, 0), default=[16, 2], metavar="R,…", help="residual ranks R (default: 16,2)")
        kind.add_argument("--group-sizes", type=list_of(int), default=[3], metavar="K,…", help="group sizes K (default: 3)")
        kind.add_argument(
            "--layers",
            type=list_of(int),
            default=[8, 12, 24, 48],
            metavar="L,…",
            help="numbers of encoder layers, each a multiple of 4, for four groups (default: 8,12,24,48)",
        )
        kind.add_argument(
            "--devices",
            type=list_of(str),
            default=["cpu", "cuda"],
            metavar="NAME,…",
            help="torch devices (default: cpu, and cuda if available)",
        )
        kind.add_argument("--repeats", type=int, default=7, metavar="N", help="repeats of each measurement (default: 7)")
        kind.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="JSON lines file to append results to (default: speed.jsonl or memory.jsonl)",
        )
        kind.add_argument("--json", action="store_true", help="print JSON instead of a table")
        kind.add_argument("--plot", type=Path, metavar="NAME", help="draw this run's results to NAME.png and NAME.svg")


def run(args: argparse.Namespace) -> int:
    if args.benchmark == "device":
        return benchmark_device.run(args)
    from residual_st.benchmark import memory, speed
    from residual_st.benchmark.systems import GROUPS

    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats} must be at least 1")
    for layers in args.layers:
        if layers % GROUPS:
            raise InputError(f"--layers {layers} must be a multiple of {GROUPS}")
    shape = {"widths": args.widths, "ranks": args.ranks, "group_sizes": args.group_sizes, "layers": args.layers}
    if args.benchmark == "memory":
        return _measure(args, memory.cases(**shape), memory.measure)
    unknown = set(args.measures) - set(_MEASURES)
    if unknown:
        raise InputError(f"--measures {unknown.pop()!r} is not known; it must be one of {', '.join(_MEASURES)}")
    work = {
        name: getattr(args, name) for name in ("seconds", "batches", "threads", "frames", "dropouts", "measures", "tuned", "arch")
    }
    return _measure(args, speed.cases(**shape, **work, model_flags=shlex.split(args.model_flags)), speed.measure)


def _measure(args: argparse.Namespace, cases: Iterable[_Measured], measure: Callable[[_Measured, int], list[dict]]) -> int:
    """Measure the cases of the chosen devices that `--output` does not contain yet, and print the rows of all."""
    from residual_st.benchmark.results import append, cpu_name, provenance, read

    output = args.output or Path(f"{args.benchmark}.jsonl")
    cases = [case for case in dict.fromkeys(cases) if case.device in args.devices]
    if not cases:
        raise InputError(
            f"--devices {','.join(args.devices)}: nothing to measure there; each must be one of cpu and, with a GPU, cuda"
        )
    if args.plot:
        from residual_st.benchmark import plots  # imported before any work: matplotlib may be missing
    check_writable(output, args.plot)
    source = provenance()
    del source["machine"]  # a case states its own threads
    source |= {"machine": cpu_name()}
    measured = read(output)
    fresh = []
    for case in progress(cases, desc=f"benchmark {args.benchmark}", unit="case"):
        known = [row for row in measured if _is_of(row, {**case.row(), **source})]
        rows = known or [{"benchmark": args.benchmark, **row, **source} for row in measure(case, args.repeats)]
        if not known:
            for row in rows:
                append(output, row)
        fresh += rows
    if args.plot:
        plots.draw(args.benchmark, fresh, args.plot)
    print(
        json.dumps(fresh, indent=2)
        if args.json
        else tabulate([_brief(row, source) for row in fresh], headers="keys", tablefmt="simple")
    )
    return 0


def _is_of(row: dict, case: dict) -> bool:
    """Whether a row holds the results of a case: an interrupted benchmark resumes with the missing cases."""
    return all(row.get(key) == value for key, value in case.items())


def _brief(row: dict, source: dict) -> dict:
    """The columns of the printed table: the case and the ratios."""
    hidden = {"benchmark", "seed", "repeats", *source}
    return {
        key: value
        for key, value in row.items()
        if key not in hidden and not key.startswith("stock_") and not key.endswith("_bytes")
    }
