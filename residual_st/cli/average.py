"""Average the weights of several checkpoints of one training run."""

import argparse

from residual_st.cli.arguments import add_output_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CKPT",
        help="checkpoint files, or one folder together with --num-epoch-checkpoints or --num-update-checkpoints",
    )
    add_output_arguments(parser, "X.pt")
    last = parser.add_mutually_exclusive_group()
    last.add_argument(
        "--num-epoch-checkpoints", type=int, metavar="N", help="average the folder's last N epoch checkpoints (checkpointE.pt)"
    )
    last.add_argument(
        "--num-update-checkpoints", type=int, metavar="N", help="average the folder's last N update checkpoints (checkpoint_E_U.pt)"
    )


def run(args: argparse.Namespace) -> int:
    from residual_st.fairseq.averaging import average, last_checkpoints
    from residual_st.fairseq.checkpoints import save_checkpoint
    from residual_st.files import refuse_existing

    refuse_existing(args.output, args.force)
    if args.num_epoch_checkpoints is not None:
        paths = last_checkpoints(args.checkpoints, r"checkpoint(\d+)\.pt", args.num_epoch_checkpoints)
    elif args.num_update_checkpoints is not None:
        paths = last_checkpoints(args.checkpoints, r"checkpoint_\d+_(\d+)\.pt", args.num_update_checkpoints)
    else:
        paths = args.checkpoints
    save_checkpoint(average(paths), args.output)
    print(f"{args.output}: average of {', '.join(map(str, paths))}")
    return 0
