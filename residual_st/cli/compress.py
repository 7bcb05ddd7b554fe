"""Compress a trained dense model into one with shared layers, without training (optionally with a short refinement)."""

import argparse
import json
import math
from pathlib import Path

from residual_st.cli.arguments import (
    Renamed,
    add_data_arguments,
    add_device_argument,
    add_direction_arguments,
    add_output_arguments,
    add_user_dir_argument,
    option_of,
)
from residual_st.cli.compress_tables import format_tables, parts_of
from residual_st.errors import InputError
from residual_st.languages import Direction
from residual_st.sharing.plan import PATTERNS
from residual_st.sharing.ranks import ResidualRanks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="DENSE",
        help="checkpoint of a dense fairseq model, or folder of a Hugging Face model (docs/kinds.md lists the supported kinds)",
    )
    add_output_arguments(parser, "X", "checkpoint or folder to write")
    parser.add_argument(
        "--group-size", type=int, metavar="K", help="layers that share one matrix (default: 3, or chosen by the size option)"
    )
    parser.add_argument(
        "--sharing-pattern",
        default="adjacent",
        metavar="PATTERN",
        help=f"which layers share: {', '.join(PATTERNS)}, or a list of groups such as 0,0,1,1 (default: adjacent)",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--residual-rank", type=ResidualRanks.flag, metavar="R", help="rank of the residuals, or a list of ranks (default: 2)"
    )
    size.add_argument(
        "--encoder-weight-fraction",
        type=float,
        metavar="F",
        help="fraction of the encoder's matrix weights to keep, above 0 up to 1; chooses ranks and group size",
    )
    size.add_argument(
        "--weight-fraction",
        type=float,
        metavar="F",
        help="fraction of the matrix weights of the whole model to keep; chooses both parts' fractions, and needs --calibration",
    )
    size.add_argument(
        "--max-loss",
        type=percentage,
        metavar="P%",
        help="find the smallest encoder whose loss on held-out batches rises by at most P%%, such as 1%%; needs --calibration",
    )
    size.add_argument("--encoder-mbytes", type=float, metavar="MB", help="size of the whole encoder in float32, in MB (10^6 bytes)")
    decoder = parser.add_argument_group(
        "decoder", "The decoder stays dense unless one of these is given. --diagonal and the calibration data apply to it too."
    )
    decoder.add_argument("--decoder-group-size", type=int, metavar="K", help="decoder layers that share one matrix")
    decoder.add_argument("--decoder-sharing-pattern", metavar="PATTERN", help="same as --sharing-pattern, for the decoder")
    decoder_size = decoder.add_mutually_exclusive_group()
    decoder_size.add_argument(
        "--decoder-residual-rank", type=ResidualRanks.flag, metavar="R", help="same as --residual-rank, for the decoder"
    )
    decoder_size.add_argument(
        "--decoder-weight-fraction",
        type=float,
        metavar="F",
        help="fraction of the decoder's matrix weights to keep; chooses ranks and group size",
    )
    parser.add_argument(
        "--diagonal", action=argparse.BooleanOptionalAction, default=True, help="whether residuals have a diagonal (default: yes)"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DATA",
        help="calibration data: for a fairseq model, the folder with its training manifests; for a Hugging Face model, a folder of "
        "audio, optionally with one subfolder per language, or a TSV with the column audio and optionally src_lang, tgt_lang, task",
    )
    words = parser.add_argument_group(
        "language of calibration (Hugging Face models)",
        "The model is calibrated on the words that it generates for this direction.",
    )
    add_direction_arguments(words, "from the folders or columns of --calibration, else the model's own setting")
    add_data_arguments(parser, "manifests to draw calibration batches from")
    parser.add_argument("--valid-subset", metavar="NAME[,NAME]", help="manifests to compute losses on (default: the checkpoint's)")
    parser.add_argument(
        "--calibration-batches",
        type=int,
        metavar="N",
        help="calibration batches of 10,000 frames (fairseq, default: 30) or of half a minute (Hugging Face, default: 24)",
    )
    parser.add_argument(
        "--refine-updates",
        type=int,
        default=0,
        metavar="N",
        help="updates that fit the layers' outputs to those of the dense model, without labels (default: 0)",
    )
    parser.add_argument(
        "--correction-batches",
        type=int,
        metavar="N",
        help="extra batches for correction and refinement (default: 0 for fairseq, --refine-updates / 5 for Hugging Face)",
    )
    parser.add_argument(
        "--refine-batches", action=Renamed, const="give --correction-batches; these batches now also serve the correction"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="random seed for choosing calibration batches (default: 1)"
    )
    add_device_argument(parser)
    add_user_dir_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def percentage(text: str) -> float:
    """An argparse type: `1%` or `0.01`."""
    hint = "give a percentage such as 1% or 0.01"
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage; {hint}") from None
    if not text.endswith("%") and 1 <= value < 100:
        raise argparse.ArgumentTypeError(f"{text} without a percent sign means {value:.0%}; write {text}% or {value / 100:g}")
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0% and 100%; {hint}")
    return value


def run(args: argparse.Namespace) -> int:
    from residual_st.cli.compress_model import compress_checkpoint, compress_folder

    is_folder = Path(args.checkpoint).is_dir()
    if args.calibration_batches is None:
        args.calibration_batches = 24 if is_folder else 30
    if args.correction_batches is None:
        # measured in docs/real_models.md: each half-minute is then used about four times
        args.correction_batches = math.ceil(args.refine_updates / 5) if is_folder else 0
    _check(args)
    figures = compress_folder(args) if is_folder else compress_checkpoint(args)
    print(json.dumps(figures, indent=2) if args.json else format_tables(figures))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for values out of range and options that cannot be combined."""
    for name, least in {"calibration_batches": 1, "refine_updates": 0, "correction_batches": 0}.items():
        if getattr(args, name) < least:
            raise InputError(f"{option_of(name)} {getattr(args, name)} must be at least {least}")
    if args.max_loss is not None and "decoder" in parts_of(args):
        raise InputError("--max-loss applies to the encoder alone; compress the decoder in a second run, without --max-loss")
    if args.weight_fraction is not None and args.decoder_weight_fraction is not None:
        raise InputError(
            "--weight-fraction cannot be combined with --decoder-weight-fraction: it chooses the decoder's size itself"
        )
    calibrating = ("refine_updates", "correction_batches", "config_yaml", "subset", "valid_subset", "max_loss", "weight_fraction")
    for name in (*calibrating, *vars(Direction())):
        if getattr(args, name) not in (None, 0) and not args.calibration:
            raise InputError(f"{option_of(name)} {getattr(args, name)} needs --calibration DATA")
