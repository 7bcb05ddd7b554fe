"""Print the installed package's folder, for --user-dir "$(residual-st user-dir)"."""

import argparse
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    print(PACKAGE)
    return 0
