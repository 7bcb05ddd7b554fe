"""Translate or transcribe live speech with an exported model, without torch."""

import argparse
import io
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from residual_st.cli.arguments import MOST_THREADS, add_direction_arguments, check_ranges
from residual_st.errors import InputError, printable

if TYPE_CHECKING:
    from residual_st.runtime.translator import Segment

STANDARD_INPUT = "-"
MOST_CHANNELS, HIGHEST_RATE = 64, 192_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help="folder written by residual-st export")
    parser.add_argument(
        "audio",
        nargs="?",
        metavar="AUDIO",
        help="recording, read in real time; - for raw samples on standard input (default: the microphone)",
    )
    add_direction_arguments(parser, "the exported model's setting")
    parser.add_argument(
        "--policy",
        default="local-agreement",
        metavar="NAME",
        help="rule that decides which words are final before a pause: local-agreement, alignatt, retranslation or ctc "
        "(default: local-agreement)",
    )
    parser.add_argument(
        "--chunk-seconds", type=float, default=1.0, metavar="S", help="seconds of new audio in each step (default: 1)"
    )
    parser.add_argument("--beam", type=int, metavar="N", help="beam size (default: the model's setting, or 5)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="number of threads (default: 1)")
    parser.add_argument("--fast", action="store_true", help="read the recording as fast as possible instead of in real time")
    parser.add_argument(
        "--device", metavar="NAME", help="number of the microphone, or a part of its name (default: the system's default)"
    )
    parser.add_argument("--rate", type=int, default=16_000, metavar="HZ", help="sample rate of raw samples (default: 16000)")
    parser.add_argument("--channels", type=int, default=1, metavar="N", help="channels of raw samples (default: 1)")
    parser.add_argument(
        "--sample-type", default="s16le", metavar="TYPE", help="type of raw samples: s16le, s32le, f32le or u8 (default: s16le)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON per step")
    parser.add_argument("--srt", type=Path, metavar="FILE", help="also write subtitles to FILE, each when it is final")
    parser.add_argument("--force", action="store_true", help="overwrite the file of --srt if it exists")


def run(args: argparse.Namespace) -> int:
    check_ranges(args, {"threads": (1, MOST_THREADS), "rate": (1, HIGHEST_RATE), "channels": (1, MOST_CHANNELS)})
    if args.fast and args.audio in (None, STANDARD_INPUT):
        raise InputError("--fast needs a recording: a microphone and standard input arrive in real time")
    from residual_st.files import refuse_existing
    from residual_st.runtime import Settings
    from residual_st.streaming import Stream

    if args.srt is not None:
        refuse_existing(args.srt, args.force)
    stream = Stream(
        args.model,
        args.policy,
        Settings(beam=args.beam),
        task=args.task,
        source_lang=args.source_lang,
        target_lang=args.target_lang,
        threads=args.threads,
        chunk_seconds=args.chunk_seconds,
    )
    if args.json:
        show = _show_json
    elif sys.stdout.isatty():
        show = _Terminal().show
    else:
        show = _show_lines
    pieces = _pieces(args)
    shown = [show] if args.srt is None else [_Subtitles(args.srt).show, show]
    for update in _updates(stream, pieces):
        for each in shown:
            each(update)
    return 0


def _pieces(args: argparse.Namespace) -> Iterator:
    from residual_st.streaming import inputs

    if args.audio is None:
        device = int(args.device) if args.device and args.device.isdigit() else args.device
        return inputs.microphone(device)
    if args.audio == STANDARD_INPUT:
        pipe: io.BufferedIOBase = sys.stdin.buffer  # type: ignore[assignment] # typeshed's BinaryIO lacks read1
        return inputs.raw(pipe, args.rate, args.channels, args.sample_type)
    return inputs.recording(args.audio, not args.fast)


def _updates(stream, pieces: Iterator) -> Iterator:
    """The stream's updates until the audio ends or the user interrupts it."""
    for samples, rate in _until_interrupted(pieces):
        yield from stream.feed(samples, rate)
    yield stream.finish()


def _until_interrupted(pieces: Iterator) -> Iterator:
    """The pieces up to Ctrl-C. Ctrl-C interrupts waiting for the next piece, not the work on the current one."""
    is_waiting = is_over = False

    def end(*_) -> None:
        nonlocal is_over
        is_over = True
        if is_waiting:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, end)
    try:
        while not is_over:
            is_waiting = True
            piece = next(pieces, None)
            is_waiting = False
            if piece is None:
                return
            yield piece
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGINT, before)


def _show_json(update) -> None:
    print(json.dumps(update.as_json(), ensure_ascii=False), flush=True)


def _show_lines(update) -> None:
    for segment in update.closed:
        print(segment.text, flush=True)


class _Terminal:
    """One line per window. The open window's line is rewritten: text that may still change is faint, changed text is underlined."""

    def __init__(self):
        self._before = ""  # the text last shown for the open window

    def show(self, update) -> None:
        from residual_st.runtime.subtitles import width

        for segment in update.closed:
            sys.stdout.write(f"\r\x1b[K{printable(segment.text)}\n")
            self._before = ""
        stable, whole = printable(update.text), printable(update.text + update.tail)
        kept = next((place for place, pair in enumerate(zip(self._before, whole)) if pair[0] != pair[1]), len(whole))
        is_revised = kept < len(self._before)
        kept = whole.rfind(" ", 0, kept) + 1 if is_revised else len(whole)  # underline whole words
        columns, shown = shutil.get_terminal_size().columns - 1, whole
        while width([shown]) > columns:
            shown = shown[1:]
        left_out = len(whole) - len(shown)
        cuts = [max(0, cut - left_out) for cut in (len(stable), max(kept, len(stable)))]
        stable, same, revised = shown[: cuts[0]], shown[cuts[0] : cuts[1]], shown[cuts[1] :]
        sys.stdout.write(f"\r\x1b[K{stable}\x1b[2m{same}\x1b[4m{revised}\x1b[0m")
        sys.stdout.flush()
        self._before = whole


class _Subtitles:
    """A subtitle file that is complete at any time: it is written at the first step and when a window has ended."""

    def __init__(self, path: Path):
        self._path, self._is_written = path, False
        self._segments: list[Segment] = []

    def show(self, update) -> None:
        from residual_st.files import atomically
        from residual_st.runtime import Transcript, subtitles

        self._segments += update.closed
        if update.closed or not self._is_written:
            with atomically(self._path) as partial:
                partial.write_text(subtitles.srt(Transcript(update.seconds, self._segments)), encoding="utf-8")
            self._is_written = True
