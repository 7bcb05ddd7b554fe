"""Reduce an untrusted checkpoint to its weights and flags, without running any code in it."""

import argparse

from residual_st.cli.arguments import add_output_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="FOREIGN.pt", help="checkpoint of any fairseq model, from any version or fork")
    add_output_arguments(parser, "CLEAN.pt", "file to write, which stock fairseq too can read without running code")


def run(args: argparse.Namespace) -> int:
    from residual_st.fairseq.checkpoints import read_checkpoint, save_checkpoint, stripped
    from residual_st.fairseq.conversion import with_plain_flags
    from residual_st.files import refuse_existing

    refuse_existing(args.output, args.force)
    state, dropped = read_checkpoint(args.checkpoint)
    result = with_plain_flags(stripped(state))
    save_checkpoint(result, args.output)
    sections = sorted(set(state) - set(result))
    print(f"{args.output}: {len(result['model'])} weights and the flags")
    if sections:
        print(f"removed: {', '.join(sections)}")
    if dropped:
        print(f"not read, because reading them would run code: {', '.join(dropped)}")
    return 0
