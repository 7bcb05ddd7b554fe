"""Transcripts as subtitles: SubRip (.srt) and WebVTT (.vtt), in cues of at most two lines of 42 columns."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from residual_st.runtime.translator import Transcript

COLUMNS = 42  # per line; a cue has up to two lines
# where to divide a long text, best first; None: between any two words
_MARKS: list[str | None] = [".!?…。！？", ",;:、，；：", None]


class Cue(NamedTuple):
    """Start and end in milliseconds from the start of the recording, and one or two lines."""

    start: int
    end: int
    lines: list[str]


def srt(transcript: Transcript) -> str:
    blocks = []
    for number, (start, end, lines) in enumerate(cues(transcript), 1):
        blocks.append("\n".join([str(number), f"{_time(start, ',')} --> {_time(end, ',')}", *lines, ""]))
    return "\n".join(blocks)


def vtt(transcript: Transcript) -> str:
    blocks = ["WEBVTT\n"]
    for start, end, lines in cues(transcript):
        blocks.append("\n".join([f"{_time(start, '.')} --> {_time(end, '.')}", *map(_escaped, lines), ""]))
    return "\n".join(blocks)


def cues(transcript: Transcript) -> Iterator[Cue]:
    """The cues of a transcript. A segment's time is divided by its cues' text widths. Cues never overlap, and none is empty."""
    last = 0
    for segment in transcript.segments:
        parts = _divided(_atoms(segment.text))
        ends = list(accumulate(width(part) for part in parts))
        first, seconds = segment.start, segment.end - segment.start
        for part, begin, end in zip(parts, [0, *ends], ends):
            start = max(last, round(1000 * (first + seconds * begin / ends[-1])))
            last = max(start + 1, round(1000 * (first + seconds * end / ends[-1])))
            yield Cue(start, last, _lines(part))


def _lines(atoms: list[str]) -> list[str]:
    """One line, or two of about the same width; no line if two are not enough."""
    if width(atoms) <= COLUMNS:
        return ["".join(atoms).strip()]
    divisions = [(atoms[:cut], atoms[cut:]) for cut in range(1, len(atoms))]
    halves = min(divisions, key=lambda pair: max(map(width, pair)))
    return ["".join(half).strip() for half in halves] if max(map(width, halves)) <= COLUMNS else []


def _divided(atoms: list[str]) -> list[list[str]]:
    """Parts that each fit a cue: divided at the end of the sentence, clause or word nearest to the middle, in this order."""
    if not atoms or _lines(atoms):
        return [atoms] if atoms else []
    whole, ends = width(atoms), list(accumulate(width([atom]) for atom in atoms))
    for marks in _MARKS:
        inner = [cut for cut, end in enumerate(ends, 1) if whole / 4 <= end <= whole * 3 / 4]
        marked = [cut for cut in inner if marks is None or atoms[cut - 1].strip()[-1:] in marks]
        if marked:
            break
    cut = min(marked or [len(atoms) // 2], key=lambda cut: abs(ends[cut - 1] - whole / 2))
    return _divided(atoms[:cut]) + _divided(atoms[cut:])


def _atoms(text: str) -> list[str]:
    """Units that are not divided: words with their trailing space, and single characters in scripts without spaces."""
    atoms = []
    for word in re.findall(r"\S+\s*", text.strip()):
        begin = 0
        for at in range(1, len(word)):
            is_full = width([word[begin : at + 1].rstrip()]) > COLUMNS
            if is_full or (_is_unspaced(word[at - 1]) or _is_unspaced(word[at])) and unicodedata.category(word[at])[0] in "LSN":
                atoms.append(word[begin:at])
                begin = at
        atoms.append(word[begin:])
    return atoms


def _is_unspaced(letter: str) -> bool:
    """Whether a character is Chinese or Japanese, or their punctuation. Korean has spaces."""
    return unicodedata.east_asian_width(letter) in "WF" and "HANGUL" not in unicodedata.name(letter, "")


def width(atoms: list[str]) -> int:
    """Width in columns: wide characters take two, combining marks none."""
    text = "".join(atoms).rstrip()
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.category(letter) in ("Mn", "Me") for letter in text)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(milliseconds: int, point: str) -> str:
    """HH:MM:SS.mmm"""
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
