"""Write an HTML report on training runs: size, quality, training curves, residuals of the layers, translations with audio."""

import argparse
import sys
from pathlib import Path

from residual_st.cli.arguments import add_user_dir_argument
from residual_st.errors import InputError
from residual_st.files import atomically, refuse_existing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="folder with a run's log, checkpoint and translations (generate-*.txt), or one of these files, of a dense or residual "
        "model; runs with the same NAME are seeds of one system, and the first system is the baseline",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), metavar="FILE", help="HTML page to write (default: report.html)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output if it exists")
    parser.add_argument("--metric", choices=["bleu", "wer"], default="bleu", help="metric to compare systems by (default: bleu)")
    parser.add_argument(
        "--tokenize",
        metavar="NAME",
        help="sacreBLEU tokenizer for BLEU (default: the one that sacreBLEU recommends for the references' script)",
    )
    parser.add_argument("--test-set", metavar="NAME", help="test set to read, generate-NAME.txt in each folder")
    parser.add_argument("--manifest", type=Path, metavar="TSV", help="manifest of the test set, to play its audio")
    parser.add_argument(
        "--release",
        type=Path,
        metavar="DIR",
        help="the test set's folder with wav/ and txt/, needed if the manifest names features instead of audio",
    )
    parser.add_argument("--samples", type=int, default=12, metavar="N", help="number of translations on the page (default: 12)")
    add_user_dir_argument(parser)
    parser.add_argument("--title", default="Residual encoders", help="title of the page (default: Residual encoders)")


def run(args: argparse.Namespace) -> int:
    if args.samples < 0:
        raise InputError(f"--samples {args.samples} must be at least 0")
    if args.release and not args.manifest:
        raise InputError("--release needs --manifest TSV, the manifest of the test set")
    refuse_existing(args.output, args.force)
    from residual_st.report.audio import Recordings
    from residual_st.report.page import make_page, missing_parts
    from residual_st.report.runs import read_run

    runs = [read_run(argument, args.test_set) for argument in args.runs]
    recordings = Recordings(args.manifest, args.release) if args.manifest else None
    page = make_page(runs, args.metric, args.title, args.samples, recordings, args.tokenize)
    try:
        with atomically(args.output) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{args.output} cannot be written: {error.strerror}") from error
    for line in missing_parts(runs):
        print(line, file=sys.stderr)
    print(f"wrote {args.output}, {len(page) / 1e6:.1f} MB")
    return 0
