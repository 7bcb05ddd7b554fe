"""Convert a residual checkpoint to a dense one of the stock architecture, or a folder with shared layers to a dense folder."""

import argparse
from pathlib import Path

from residual_st.cli.arguments import add_output_arguments, add_user_dir_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="RESIDUAL",
        help="checkpoint of a model with shared layers, or folder of a Hugging Face model with shared layers",
    )
    add_output_arguments(parser, "DENSE", "checkpoint or folder to write")
    add_user_dir_argument(parser)


def run(args: argparse.Namespace) -> int:
    if Path(args.checkpoint).is_dir():
        from residual_st import huggingface

        huggingface.refuse_existing(args.output, args.force)
        huggingface.expand(args.checkpoint, args.output)
        print(f"{args.output}: dense Hugging Face folder")
        return 0
    from residual_st.fairseq.checkpoints import model_flags, save_checkpoint
    from residual_st.fairseq.conversion import dense_checkpoint, read_model
    from residual_st.files import refuse_existing

    refuse_existing(args.output, args.force)
    state, model = read_model(args.checkpoint, residual=True)
    result = dense_checkpoint(state, model)
    save_checkpoint(result, args.output)
    print(f"{args.output}: {model_flags(result, args.output).arch}, dense")
    return 0
