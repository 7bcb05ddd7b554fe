"""Translate or transcribe recordings with an exported model, without torch."""

import argparse
import io
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from residual_st.cli.arguments import MOST_THREADS, Renamed, add_direction_arguments, check_ranges
from residual_st.errors import InputError

STANDARD_INPUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(extra="runtime")  # the extra that installs the packages this command needs
    parser.add_argument("model", metavar="DIR", help="folder written by residual-st export")
    parser.add_argument("audio", nargs="+", metavar="AUDIO", help="recordings of any length; - reads one from standard input")
    add_direction_arguments(parser, "the exported model's setting")
    parser.add_argument(
        "--lang",
        action=Renamed,
        const="give --source-lang for Whisper (the spoken language), or --target-lang for fairseq models",
    )
    parser.add_argument("--beam", type=int, metavar="N", help="beam size (default: the model's setting, or 5)")
    parser.add_argument(
        "--nbest", type=int, default=1, metavar="N", help="number of hypotheses in the output of --json (default: 1)"
    )
    parser.add_argument(
        "--lenpen",
        type=float,
        metavar="P",
        help="length penalty; above 1 favours longer texts (default: the model's setting, or 1)",
    )
    parser.add_argument("--unkpen", type=float, metavar="P", help="penalty for unknown words (default: 0)")
    parser.add_argument(
        "--max-len-a", type=float, metavar="A", help="maximum number of words per 10 ms frame, added to --max-len-b (default: 0)"
    )
    parser.add_argument(
        "--max-len-b", type=int, metavar="B", help="maximum number of extra words (default: the model's limit, or 200)"
    )
    parser.add_argument(
        "--longest-seconds",
        type=float,
        metavar="S",
        help="maximum length of a segment in seconds; longer speech is cut at its quietest place (default: the model's setting)",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of recordings translated in parallel (default: 1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="number of threads per recording (default: 1)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write one file per recording to FOLDER instead of printing")
    parser.add_argument("--force", action="store_true", help="overwrite files in the folder of --output")
    form = parser.add_mutually_exclusive_group()
    for name, help in (
        ("json", "write JSON with timestamps and scores"),
        ("srt", "write SRT subtitles"),
        ("vtt", "write WebVTT subtitles"),
    ):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, default="txt", help=help)


def run(args: argparse.Namespace) -> int:
    check_ranges(args, {"jobs": (1, MOST_THREADS), "threads": (1, MOST_THREADS)})
    if args.form in ("srt", "vtt") and args.output is None and len(args.audio) > 1:
        raise InputError(f"--{args.form} for several recordings needs --output FOLDER, to write one file per recording")
    from residual_st.files import atomically
    from residual_st.progress import progress
    from residual_st.runtime import Settings, Translator

    settings = Settings(**{name: value for name, value in vars(args).items() if name in Settings.__dataclass_fields__})
    translator = Translator(
        args.model,
        settings,
        task=args.task,
        source_lang=args.source_lang,
        target_lang=args.target_lang,
        timestamps=args.form != "txt",
        threads=args.threads,
        longest_seconds=args.longest_seconds,
    )
    if args.output is not None:
        names = _output_names(args)
    failed = 0
    results = progress(_translated(translator, args.audio, args.jobs), total=len(args.audio), unit="file", desc="translating")
    for name, transcript in results:
        if isinstance(transcript, InputError):
            failed += 1
            results.write(f"residual-st translate: {transcript}", file=sys.stderr)
            continue
        if not transcript.segments:
            results.write(f"residual-st translate: {name} contains no speech", file=sys.stderr)
        elif not transcript.text:
            results.write(f"residual-st translate: {name} has no text: the model found no words in its speech", file=sys.stderr)
        text = _format(name, transcript, args)
        if args.output is None:
            print(text, flush=True)
        else:
            args.output.mkdir(parents=True, exist_ok=True)
            with atomically(args.output / names[name]) as partial:
                partial.write_text(text + "\n", encoding="utf-8")
    if failed and len(args.audio) > 1:
        print(f"residual-st translate: {failed} of {len(args.audio)} recordings could not be translated", file=sys.stderr)
    return 2 if failed else 0


def _translated(translator, audio: list[str], jobs: int) -> Iterator:
    """Each recording's name with its transcript or its error, in the order given."""

    def translate(name: str):
        try:
            return translator.translate(_standard_input() if name == STANDARD_INPUT else name)
        except InputError as error:
            return error

    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(audio, pool.map(translate, audio))


def _standard_input() -> io.BytesIO:
    audio = io.BytesIO(sys.stdin.buffer.read())
    audio.name = "standard input"  # the name used in messages
    return audio


def _format(name: str, transcript, args: argparse.Namespace) -> str:
    from residual_st.runtime import subtitles

    if args.form == "txt":
        return transcript.text if len(args.audio) == 1 or args.output else f"{name}\t{transcript.text}"
    if args.form == "json":
        segments = [
            {
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "text": segment.text,
                "hypotheses": [{"text": text, "score": round(score, 4)} for text, score in segment.hypotheses],
            }
            for segment in transcript.segments
        ]
        row = {"audio": name, "seconds": round(transcript.seconds, 3), "speech": bool(segments), **vars(transcript.direction)}
        row |= {"text": transcript.text, "segments": segments}
        return json.dumps(row, ensure_ascii=False)
    return getattr(subtitles, args.form)(transcript).rstrip("\n")


def _output_names(args: argparse.Namespace) -> dict[str, str]:
    """Recording -> name of its output file.

    Raises:
        InputError: if two recordings would have the same, one exists and --force is not given, or --output is not a folder.
    """
    names: dict[str, str] = {}
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"--output {args.output} must be a folder, and is a file")
    for name in args.audio:
        written = f"{'stdin' if name == STANDARD_INPUT else Path(name).stem}.{args.form}"
        if (args.output / written).exists() and not args.force:
            raise InputError(f"{args.output / written} already exists; name another folder, or give --force to overwrite it")
        other = next((each for each, taken in names.items() if taken == written), None)
        if other is not None:
            raise InputError(f"{other} and {name} would both be written to {written}; give each its own run and --output folder")
        names[name] = written
    return names
