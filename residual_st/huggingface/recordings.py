"""Recordings for calibration: audio in folders, optionally named by language, or rows of a TSV, cut into half minutes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from residual_st.audio.lengths import Lengths
from residual_st.audio.pauses import split_at_pauses
from residual_st.audio.reading import read_audio
from residual_st.errors import InputError, refusing
from residual_st.fairseq.manifest import read_rows
from residual_st.languages import AUTO, Direction, Languages

SECONDS = 30.0  # Whisper's window, and the length of a batch for other models
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff")
PAUSE_SECONDS = 0.5  # between utterances in one window


@dataclass(frozen=True)
class Recording:
    """An audio file or a part of it, with the direction of its words.

    Attributes:
        folder: its folder; recordings of one folder are assumed to have one language if it is to be detected.
        span: first sample and number of samples; None for the whole file.
    """

    path: Path
    direction: Direction
    folder: str = ""
    span: Sequence[int] = ()

    def samples(self, rate: int) -> np.ndarray:
        """Mono samples at `rate` Hz, see `read_audio`."""
        if not self.span:
            return read_audio(self.path, rate)
        with refusing(f"{self.path} cannot be read as audio"), soundfile.SoundFile(self.path) as file:
            if sum(self.span) > file.frames:
                raise InputError(f"{self.path} has {file.frames} samples, too few for {self.span[1]} from sample {self.span[0]} on")
            file.seek(self.span[0])
            return read_audio(file.read(*self.span[1:], dtype="float32"), rate, file.samplerate)


@dataclass(frozen=True)
class Window:
    """Pieces of recordings for one model input, with the direction of their words."""

    pieces: list[np.ndarray]
    direction: Direction


def find_recordings(data: Path, languages: Languages, direction: Direction) -> list[Recording]:
    """The audio in a folder and its subfolders, or in a TSV, each with a direction that the model has.

    A recording's direction is taken from, in this order: `direction`; the TSV's columns `src_lang`, `tgt_lang` and `task`, or the
    names of the direct subfolders if all of them that contain audio are named by languages (`es/`, `french/`); the model's default.

    Raises:
        InputError: if there is no audio, a TSV cannot be read, or the model does not have a direction.
    """
    if data.is_file():
        return list(_listed(data, languages, direction))
    default = languages.resolved(direction)
    if not data.exists():
        raise InputError(f"{data} does not exist; give a folder with audio, or a TSV that lists it")
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{data} contains no audio; give a folder with {', '.join(SUFFIXES)} files, or a TSV that lists them")
    folders = {path: parts[0] if len(parts := path.relative_to(data).parts) > 1 else "" for path in files}
    directions = dict.fromkeys(folders.values(), default)
    if direction.source_lang is None and all(_is_language(folder, languages) for folder in directions):
        directions = {folder: languages.resolved(replace(direction, source_lang=folder)) for folder in directions}
    return [Recording(path, directions[folder], folder) for path, folder in folders.items()]


def _is_language(folder: str, languages: Languages) -> bool:
    return languages.names.get(folder.lower(), folder) in languages.detected


def _listed(table: Path, languages: Languages, direction: Direction) -> Iterator[Recording]:
    for line, row in read_rows(table, ("audio",)):
        listed = {  # columns that apply to the model
            "source_lang": row.get("src_lang") if languages.sources else None,
            "task": row.get("task") if languages.tasks and direction.task is None else None,
            "target_lang": row.get("tgt_lang") if languages.targets and direction.task is None else None,
        }
        try:
            path, span = _span(table.parent, row["audio"])
            listed_direction = Direction(**{name: getattr(direction, name) or value or None for name, value in listed.items()})
            yield Recording(path, languages.resolved(listed_direction), span=span)
        except InputError as error:
            raise InputError(f"{table}, line {line}: {error}") from error


def _span(folder: Path, audio: str) -> tuple[Path, tuple[int, ...]]:
    """The path of `FILE` or `FILE:OFFSET:LENGTH`, as in fairseq's manifests, and its span in samples."""
    path, *span = audio.rsplit(":", 2)
    has_span = len(span) == 2 and all(number.isdecimal() for number in span)
    file = folder / (path if has_span else audio)
    if ":" in file.name and not file.exists():
        raise InputError(f"audio {audio} must be FILE or FILE:OFFSET:LENGTH, with the first sample and the number of samples")
    return file, (int(span[0]), int(span[1])) if has_span else ()


def half_minutes(recordings: Iterable[Recording], rate: int) -> Iterator[Window]:
    """The speech of the recordings in their order, in windows of half a minute, one direction after another.

    If the language is to be detected, a window contains recordings of one folder, so that it has one language.
    """
    groups = defaultdict(list)
    for recording in recordings:
        groups[recording.direction, recording.folder if recording.direction.source_lang == AUTO else None].append(recording)
    in_turn = []
    for (direction, _), group in groups.items():
        whole = (recording.samples(rate) for recording in group)
        in_turn.append(_windows(whole, direction, rate))
    while in_turn:
        for windows in list(in_turn):
            try:
                yield next(windows)
            except StopIteration:
                in_turn.remove(windows)


def _windows(recordings: Iterable[np.ndarray], direction: Direction, rate: int) -> Iterator[Window]:
    """Speech between pauses, in windows of at most `SECONDS` including pauses."""
    together: list[np.ndarray] = []
    seconds = 0.0
    for samples in recordings:
        for piece in split_at_pauses(samples, rate, Lengths(SECONDS, SECONDS)):
            length = len(piece) / rate + PAUSE_SECONDS
            if together and seconds + length > SECONDS:
                yield Window(together, direction)
                together, seconds = [], 0.0
            together.append(piece)
            seconds += length
    if together:
        yield Window(together, direction)
