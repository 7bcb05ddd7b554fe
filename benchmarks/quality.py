"""Run a matrix of training runs, and compare every system with the dense one or another.

    python benchmarks/quality.py MATRIX.yaml --data DATA --work DIR [--output FILE]

A row per run is appended to the output when it ends. An interrupted matrix resumes, and runs that have rows are skipped.
"""

import argparse
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from settings import settings_of
from tabulate import tabulate
from tqdm import tqdm
from training_runs.comparison import compare, verdicts
from training_runs.making import carry_out, to_make
from training_runs.matrix import SANITY, read_matrix

from residual_st.benchmark.results import read
from residual_st.cli.arguments import check_writable, list_of
from residual_st.errors import InputError
from residual_st.files import refuse_separator
from residual_st.progress import progress, show_progress


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args(arguments)
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    show_progress()
    try:
        return run(args)
    except InputError as error:
        print(f"quality.py: {error}", file=sys.stderr)
        return 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("matrix", type=Path, metavar="MATRIX.yaml", help="the systems, such as benchmarks/quality.yaml")
    parser.add_argument("--data", type=Path, required=True, help="folder of manifests for all tasks")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for checkpoints, logs and translations")
    parser.add_argument(
        "--output", type=Path, default=Path("quality.jsonl"), metavar="FILE", help="rows of results are appended to this file"
    )
    parser.add_argument("--tasks", type=list_of(str), metavar="T,…", help="only these")
    parser.add_argument("--systems", type=list_of(str), metavar="S,…", help="only these systems and those that they need")
    parser.add_argument("--seeds", type=list_of(int, 0), metavar="N,…", help="only these")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="training flags over those of every system; null removes a flag",
    )
    parser.add_argument("--reference", metavar="SYSTEM", help="the system to compare with (default: dense)")
    parser.add_argument(
        "--sanity",
        action="store_true",
        help=f"only {', '.join(SANITY)}, which show whether the task can tell encoders apart",
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="single-threaded processes at a time (default: 2)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and which of them are finished, and stop")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs} must be at least 1")
    if args.sanity and args.systems:
        raise InputError("--sanity chooses the systems itself; leave --systems out")
    matrix = read_matrix(args.matrix, settings_of(args.set))
    runs = matrix.chosen(args.tasks, list(SANITY) if args.sanity else args.systems, args.seeds)
    if args.reference:
        matrix.chosen(None, [args.reference], None)  # refuses names that the matrix does not have
    if args.dry_run:
        missing = to_make(runs, args.work, args.output)
        lines = [[run.name, "" if run in missing else "made"] for run in runs]
        print(tabulate(lines, ["run", ""], tablefmt="plain"))
        return 0
    if not args.data.is_dir():
        raise InputError(f"--data {args.data} is not a folder; examples/must_c/prepare.py makes one")
    refuse_separator(args.data)
    refuse_separator(args.work)  # fairseq-generate gets their checkpoints
    check_writable(args.output)
    bar = progress(total=len(runs), desc=args.matrix.stem, unit="run")

    def report(run, event: str) -> None:
        tqdm.write(f"{run.name} {event}")
        bar.update(event == "finished")

    failed = carry_out(matrix, runs, args.data.absolute(), args.work.absolute(), args.output, args.jobs, report)
    bar.close()
    chosen = {(run.task, run.system) for run in runs}
    entries = compare(read(args.output), args.reference or "dense")
    table = [entry for entry in entries if (entry["task"], entry["system"]) in chosen]
    if not table and not args.json:
        print(f"nothing to compare: no row of {args.reference or 'dense'!r} with the same task and seed; --reference names another")
    answers = verdicts(table) if args.sanity else []
    if args.json:
        print(json.dumps([*table, *answers], indent=2, default=asdict))
    else:
        print(tabulate([_brief(entry) for entry in table], "keys"))
        if answers:
            print("\n" + tabulate([{key: _word(value) for key, value in answer.items()} for answer in answers], "keys"))
    return 1 if failed else 0


def _word(value: bool | str) -> str:
    if isinstance(value, str):
        return value
    return "yes" if value else "no"


def _brief(entry: dict) -> dict:
    shown = {**entry, "by_seed": " ".join(f"{score:.2f}" for score in entry["by_seed"]), "chrf": round(entry["chrf"], 2)}
    return {key: "" if value is None else str(value) for key, value in shown.items()}


if __name__ == "__main__":
    sys.exit(main())
