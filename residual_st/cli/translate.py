"""Translate, or transcribe, recordings with an exported model, without torch."""

import argparse
import io
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from residual_st.cli.arguments import Renamed, add_direction_arguments
from residual_st.errors import InputError

STANDARD_INPUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(extra="runtime")  # what brings the packages that this command needs
    parser.add_argument("model", metavar="DIR", help="folder that residual-st export wrote")
    parser.add_argument("audio", nargs="+", metavar="AUDIO", help="recordings of any length; - for standard input")
    add_direction_arguments(parser, "the folder's")
    parser.add_argument(
        "--lang",
        action=Renamed,
        const="give --source-lang, of Whisper, whose spoken language it named, or --target-lang, of fairseq's models",
    )
    parser.add_argument("--beam", type=int, metavar="N", help="hypotheses (default: the model's own setting, or 5)")
    parser.add_argument("--nbest", type=int, default=1, metavar="N", help="hypotheses in the output of --json (default: 1)")
    parser.add_argument("--lenpen", type=float, metavar="P", help="above 1 favours longer texts (default: the model's, or 1)")
    parser.add_argument("--unkpen", type=float, metavar="P", help="penalty for an unknown word (default: 0)")
    parser.add_argument("--max-len-a", type=float, metavar="A", help="maximum words for each frame of 10 ms (default: 0)")
    parser.add_argument("--max-len-b", type=int, metavar="B", help="maximum extra words (default: the model's limit, or 200)")
    parser.add_argument(
        "--longest-seconds",
        type=float,
        metavar="S",
        help="seconds of speech without a pause, cut where it is quietest if longer (default: the model's)",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="recordings at a time (default: 1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads used for each recording (default: 1)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write a file for each recording there, in place of printing")
    form = parser.add_mutually_exclusive_group()
    for name, help in (("json", "with time stamps and scores"), ("srt", "subtitles"), ("vtt", "subtitles")):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, default="txt", help=help)


def run(args: argparse.Namespace) -> int:
    for name in ("beam", "nbest", "max_len_b", "jobs", "threads"):
        if (number := getattr(args, name)) is not None and number < 1:
            raise InputError(f"--{name.replace('_', '-')} {number} is too small; give 1 or more")
    if args.form in ("srt", "vtt") and args.output is None and len(args.audio) > 1:
        raise InputError(f"--{args.form} of several recordings needs --output FOLDER, a file for each")
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
        names = _output_names(args.audio, args.form)
        args.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    results = progress(_translated(translator, args.audio, args.jobs), total=len(args.audio), unit="file", desc="translating")
    for name, transcript in results:
        if isinstance(transcript, InputError):
            failed += 1
            results.write(f"residual-st translate: {transcript}", file=sys.stderr)
            continue
        if not transcript.segments:
            results.write(f"residual-st translate: {name} holds no speech", file=sys.stderr)
        text = _format(name, transcript, args)
        if args.output is None:
            print(text, flush=True)
        else:
            with atomically(args.output / names[name]) as partial:
                partial.write_text(text + "\n", encoding="utf-8")
    if failed and len(args.audio) > 1:
        print(f"residual-st translate: {failed} of {len(args.audio)} recordings could not be translated", file=sys.stderr)
    return 2 if failed else 0


def _translated(translator, audio: list[str], jobs: int) -> Iterator:
    """Each recording's name, and its transcript or what is wrong with it, in the order in which they were given."""

    def translate(name: str):
        try:
            return translator.translate(_standard_input() if name == STANDARD_INPUT else name)
        except InputError as error:
            return error

    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(audio, pool.map(translate, audio))


def _standard_input() -> io.BytesIO:
    audio = io.BytesIO(sys.stdin.buffer.read())
    audio.name = "standard input"  # which messages call it
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


def _output_names(audio: list[str], form: str) -> dict[str, str]:
    """Recording -> the file of its text. Raises InputError where two would have the same."""
    names = {}
    for name in audio:
        written = f"{'stdin' if name == STANDARD_INPUT else Path(name).stem}.{form}"
        other = next((each for each, taken in names.items() if taken == written), None)
        if other is not None:
            raise InputError(f"{other} and {name} would both be written as {written}; give --output for each")
        names[name] = written
    return names
