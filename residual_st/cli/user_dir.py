"""Print the installed package's folder, for --user-dir "$(residual-st user-dir)"."""

import argparse

from residual_st.fairseq.user_dir import PACKAGE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    print(PACKAGE)
    return 0
