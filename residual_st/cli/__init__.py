"""The `residual-st` command: one module per subcommand, each with `add_arguments` and `run`.

These modules import torch, fairseq and other large packages inside `run` only, so that `--help` is fast and each command needs only
the packages that it uses. A module with `TAKES_REST` receives the arguments that its parser does not know in `args.rest`.
"""

import argparse
import contextlib
import logging
import os
import sys
import warnings

from residual_st.cli import (
    average,
    benchmark,
    cache_teacher,
    compress,
    convert,
    expand,
    export,
    inspect,
    listen,
    report,
    serve,
    strip,
    train,
    translate,
    user_dir,
)
from residual_st.cli.arguments import summary_of
from residual_st.errors import InputError, missing_package, printable, reason, refusing
from residual_st.fairseq.other_user_dirs import find_user_dir
from residual_st.printing import print_any_text
from residual_st.progress import show_progress

SUBCOMMANDS = {
    "user-dir": user_dir,
    "train": train,
    "inspect": inspect,
    "average": average,
    "compress": compress,
    "expand": expand,
    "convert": convert,
    "export": export,
    "translate": translate,
    "listen": listen,
    "serve": serve,
    "strip": strip,
    "cache-teacher": cache_teacher,
    "benchmark": benchmark,
    "report": report,
}


def make_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(prog="residual-st", description="Residual-shared speech translation encoders for fairseq.")
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    for name, module in SUBCOMMANDS.items():
        summary = summary_of(module)
        module.add_arguments(subparsers.add_parser(name, help=summary, description=summary))
    return parser


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a subcommand's name and arguments. Invalid arguments end the process with exit status 2."""
    parser = make_parser()
    args, rest = parser.parse_known_args(arguments)
    if rest and not getattr(SUBCOMMANDS[args.subcommand], "TAKES_REST", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    return args


def import_user_dir(other: str) -> None:
    """Register the models of a user dir. Anything it prints goes to standard error, not into the command's output."""
    user_dir = find_user_dir(other)
    with refusing(f"{other} cannot be imported"), contextlib.redirect_stdout(sys.stderr):
        user_dir.load()


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand. Returns 0 on success, 2 for wrong usage, invalid input or a missing package, 130 if interrupted."""
    print_any_text()
    args = parse(arguments)
    show_progress()
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    logging.getLogger("fairseq.data.audio.data_cfg").setLevel(logging.ERROR)  # warns about `transforms` that it wrote itself
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.")  # caused by fairseq's calls
    try:
        if getattr(args, "user_dir", None):
            import_user_dir(args.user_dir)
        status = SUBCOMMANDS[args.subcommand].run(args)
        sys.stdout.flush()
        return status
    except InputError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        message = missing_package(error, getattr(args, "extra", args.subcommand))
    except BrokenPipeError:
        # the reader of the output, such as head, has closed it; Python would fail again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a deleted file
        message = reason(error)
    except KeyboardInterrupt:
        print(f"residual-st {args.subcommand}: interrupted", file=sys.stderr)
        return 130  # as shells report it
    print(f"residual-st {args.subcommand}: {printable(message)}", file=sys.stderr)
    return 2
