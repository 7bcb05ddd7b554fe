"""Reduce a checkpoint from elsewhere to its weights and flags, read as data without running anything in it."""

import argparse

from residual_st.cli.arguments import add_output_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="FOREIGN.pt", help="checkpoint of any fairseq model, written by any version or fork")
    add_output_arguments(parser, "CLEAN.pt", "file to write, which stock fairseq reads as data too")


def run(args: argparse.Namespace) -> int:
    from residual_st.fairseq.checkpoints import read_checkpoint, save_checkpoint, stripped
    from residual_st.fairseq.conversion import with_plain_flags
    from residual_st.files import refuse_existing

    refuse_existing(args.output, args.force)
    state, dropped = read_checkpoint(args.checkpoint)
    result = with_plain_flags(stripped(state))
    save_checkpoint(result, args.output)
    sections = sorted(set(state) - set(result))
    print(f"{args.output}: {len(result['model'])} weights, and the flags")
    if sections:
        print(f"left out: {', '.join(sections)}")
    if dropped:
        print(f"not read, because only their classes' code could: {', '.join(dropped)}")
    return 0
