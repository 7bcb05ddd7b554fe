"""Write one page on some runs: size and quality, training curves, the layers' residuals, and translations to read and hear."""

import argparse
from pathlib import Path

from residual_st.cli.arguments import add_user_dir_argument
from residual_st.errors import InputError
from residual_st.files import atomically, refuse_existing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="folder with a run's log, checkpoint and translations (generate-*.txt), or one of these files, of fairseq's models "
        "or this package's; runs of one NAME are seeds of one system, and the first is what others are compared with",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), metavar="FILE", help="page to write (default: report.html)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    parser.add_argument("--metric", choices=["bleu", "wer"], default="bleu", help="what is compared (default: bleu)")
    parser.add_argument(
        "--tokenize",
        metavar="NAME",
        help="sacreBLEU's tokenizer for BLEU (default: the one that sacreBLEU advises for the script of the references)",
    )
    parser.add_argument("--test-set", metavar="NAME", help="take generate-NAME.txt of each folder")
    parser.add_argument("--manifest", type=Path, metavar="TSV", help="the test set's manifest, to play its speech")
    parser.add_argument(
        "--release", type=Path, metavar="DIR", help="its folder with wav/ and txt/, where the manifest names features"
    )
    parser.add_argument("--samples", type=int, default=12, metavar="N", help="translations on the page (default: 12)")
    add_user_dir_argument(parser)
    parser.add_argument("--title", default="Residual encoders", help="title of the page")


def run(args: argparse.Namespace) -> int:
    if args.samples < 0:
        raise InputError(f"--samples {args.samples} must be at least 0")
    if args.release and not args.manifest:
        raise InputError("--release needs --manifest, which lists the segments of the test set")
    refuse_existing(args.output, args.force)
    from residual_st.report.audio import Recordings
    from residual_st.report.page import make_page
    from residual_st.report.runs import read_run

    runs = [read_run(argument, args.test_set) for argument in args.runs]
    recordings = Recordings(args.manifest, args.release) if args.manifest else None
    page = make_page(runs, args.metric, args.title, args.samples, recordings, args.tokenize)
    try:
        with atomically(args.output) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{args.output} cannot be written: {error.strerror}") from error
    print(f"wrote {args.output}, {len(page) / 1e6:.1f} MB")
    return 0
