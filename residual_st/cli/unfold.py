"""Turn a dense encoder of few layers into a residual one of K times as many, to be trained on."""

import argparse

from residual_st.cli.arguments import add_output_arguments
from residual_st.sharing.ranks import ResidualRanks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="DENSE.pt", help="checkpoint of an s2t_transformer, trained for a while")
    add_output_arguments(parser, "X.pt")
    parser.add_argument("--group-size", type=int, default=3, metavar="K", help="layers that each layer becomes (default: 3)")
    parser.add_argument(
        "--residual-rank", type=ResidualRanks.flag, default=2, metavar="R", help="rank of the residuals (default: 2), or a list"
    )
    parser.add_argument("--diagonal", action=argparse.BooleanOptionalAction, default=True, help="residuals have a diagonal")


def run(args: argparse.Namespace) -> int:
    from residual_st.fairseq.checkpoints import model_flags, save_checkpoint
    from residual_st.fairseq.conversion import read_model, unfolded_checkpoint
    from residual_st.files import refuse_existing

    refuse_existing(args.output, args.force)
    state, model = read_model(args.checkpoint, residual=False)
    result = unfolded_checkpoint(state, model, args.group_size, args.residual_rank, args.diagonal)
    save_checkpoint(result, args.output)
    flags = model_flags(result, args.output)
    print(f"{args.output}: {flags.arch} of {flags.encoder_layers} encoder layers in groups of {args.group_size}")
    return 0
