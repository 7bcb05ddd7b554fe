"""The `residual-st` command: one module a subcommand, each with `add_arguments` and `run`.

A module with `TAKES_REST` finds the arguments that its parser does not know in `args.rest`.
"""

import argparse
import logging
import sys

from residual_st.cli import average, benchmark, cache_teacher, compress, expand, inspect, report, train, user_dir
from residual_st.errors import InputError

SUBCOMMANDS = {
    "user-dir": user_dir,
    "train": train,
    "inspect": inspect,
    "average": average,
    "compress": compress,
    "expand": expand,
    "cache-teacher": cache_teacher,
    "benchmark": benchmark,
    "report": report,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand. Returns 0 on success and 2 for wrong usage or input."""
    parser = argparse.ArgumentParser(prog="residual-st", description="Residual-shared speech translation encoders for fairseq.")
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    for name, module in SUBCOMMANDS.items():
        summary = module.__doc__.splitlines()[0]
        module.add_arguments(subparsers.add_parser(name, help=summary, description=summary))
    args, rest = parser.parse_known_args(arguments)
    if rest and not getattr(SUBCOMMANDS[args.subcommand], "TAKES_REST", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    try:
        return SUBCOMMANDS[args.subcommand].run(args)
    except InputError as error:
        print(f"residual-st {args.subcommand}: {error}", file=sys.stderr)
        return 2
