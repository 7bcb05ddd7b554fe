"""Reading a MuST-C release: `ROOT/en-XX/data/SPLIT/{wav,txt}`, whose yaml cuts long talk recordings into segments."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import soundfile
import yaml

from residual_st.audio.segments import numbered
from residual_st.errors import InputError

SPLITS = ["train", "dev", "tst-COMMON", "tst-HE"]
_REQUIRED = ("wav", "offset", "duration", "speaker_id")
# Durations in the release are rounded, so a last segment may end slightly after the end of its recording.
END_TOLERANCE_S = 0.1


class Segment(NamedTuple):
    """One utterance: position of its audio in samples, and its texts."""

    id: str
    start: int
    length: int
    source: str
    target: str
    speaker: str


class Problem(NamedTuple):
    """A description of unusable data, and the number of affected segments."""

    message: str
    segments: int = 1


class Talk(NamedTuple):
    """One recording and its segments. Segments that cannot be used are in `problems` instead of `segments`."""

    wav: Path
    sample_rate: int
    segments: list[Segment]
    problems: list[Problem]


def check_layout(language_root: Path, language: str) -> None:
    """Raise InputError unless all files of the release that the recipe reads exist."""
    for split in SPLITS:
        txt = language_root / "data" / split / "txt"
        needed = [language_root / "data" / split / "wav", *(txt / f"{split}.{end}" for end in ("yaml", "en", language))]
        for path in needed:
            if not path.exists():
                raise InputError(
                    f"{path} is missing; MuST-C unpacks to en-{language}/data/SPLIT/{{wav,txt}} for {', '.join(SPLITS)}"
                )


def read_talks(language_root: Path, language: str, split: str) -> Iterator[Talk]:
    """Yield the talks of a split in the order of the release, with one talk in memory at a time.

    Raises InputError if the files do not match line by line.
    """
    root = language_root / "data" / split
    seen = set()
    for name, group in itertools.groupby(_read_lines(root / "txt", language, split), key=lambda line: line[0]["wav"]):
        if name in seen:
            raise InputError(
                f"{root / 'txt' / split}.yaml: segments of {name} are in two places; all segments of a talk must be consecutive"
            )
        seen.add(name)
        yield _read_talk(root / "wav" / name, list(numbered(name, group, lambda line: line[0]["offset"])))


def _read_lines(txt: Path, language: str, split: str) -> Iterator[tuple[dict, str, str]]:
    paths = [txt / f"{split}.{end}" for end in ("yaml", "en", language)]
    with open(paths[1], encoding="utf-8-sig") as source, open(paths[2], encoding="utf-8-sig") as target:
        lines = itertools.zip_longest(_read_yaml(paths[0]), source, target)
        for number, (segment, source_line, target_line) in enumerate(lines, 1):
            for path, value in zip(paths, (segment, source_line, target_line)):
                if value is None:
                    raise InputError(
                        f"{path} ends before line {number}, but all files of {split} in {txt} must have the same number of lines"
                    )
            yield segment, source_line.strip(), target_line.strip()


def _read_yaml(path: Path) -> Iterator[dict]:
    """Yield the items of a yaml list of flat mappings one by one: loading the whole list of 250,000 takes minutes and gigabytes."""
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    with open(path, encoding="utf-8-sig") as file:
        segment, scalars = None, []
        try:
            for event in yaml.parse(file, Loader=loader):
                if isinstance(event, yaml.MappingStartEvent):
                    segment, scalars = event, []
                elif isinstance(event, yaml.ScalarEvent) and segment:
                    scalars.append(event.value)
                elif isinstance(event, yaml.MappingEndEvent):
                    item = dict(zip(scalars[::2], scalars[1::2]))
                    missing = [key for key in _REQUIRED if key not in item]
                    if missing:
                        line = segment.start_mark.line + 1
                        raise InputError(f"{path}, line {line}: no `{missing[0]}`; a segment needs {', '.join(_REQUIRED)}")
                    yield item
        except yaml.YAMLError as error:
            raise InputError(f"{path} is not the yaml of a MuST-C split: {' '.join(str(error).split())}") from error


def _read_talk(wav: Path, lines: list[tuple[str, tuple[dict, str, str]]]) -> Talk:
    try:
        info = soundfile.info(wav)
    except (soundfile.LibsndfileError, OSError) as error:
        reason = "is missing" if not wav.exists() else f"cannot be read as audio ({error})"
        return Talk(wav, 0, [], [Problem(f"{wav} {reason}: {len(lines)} segments", len(lines))])
    segments, problems = [], []
    for name, (fields, source, target) in lines:
        where = f"{wav}, segment {name.rpartition('_')[2]}"
        try:
            offset, duration = float(fields["offset"]), float(fields["duration"])
        except ValueError:
            problems.append(Problem(f"{where}: offset {fields['offset']!r} or duration {fields['duration']!r} is not a number"))
            continue
        if offset < 0 or duration <= 0 or offset + duration > info.duration + END_TOLERANCE_S:
            span = f"{offset:.2f}-{offset + duration:.2f} s"
            problems.append(Problem(f"{where}: {span}, but the recording has {info.duration:.2f} s"))
            continue
        start, length = int(offset * info.samplerate), int(duration * info.samplerate)
        segments.append(Segment(name, start, length, source, target, fields["speaker_id"]))
    return Talk(wav, info.samplerate, segments, problems)
