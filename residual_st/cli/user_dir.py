"""Print the folder of this plugin, for fairseq's --user-dir "$(residual-st user-dir)"."""

import argparse

from residual_st.fairseq.other_user_dirs import user_dir_with
from residual_st.fairseq.user_dir import PACKAGE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--with",
        dest="others",
        action="append",
        metavar="OTHER",
        help="another user dir to register too: a folder, or package.module if it imports itself by that name; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    print(user_dir_with(args.others) if args.others else PACKAGE)
    return 0
