"""Recordings to calibrate on: audio in folders, which may be named by language, or rows of a TSV; half minutes of them."""

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

SECONDS = 30.0  # Whisper's window, and as much of other models' utterances
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff")
PAUSE_SECONDS = 0.5  # between utterances in one window


@dataclass(frozen=True)
class Recording:
    """A file of audio or a part of it, and what its words are to be.

    Attributes:
        folder: in which recordings are likely to be of one language, where it is to be detected.
        span: first sample and number of samples, or none.
    """

    path: Path
    direction: Direction
    folder: str = ""
    span: Sequence[int] = ()

    def samples(self, rate: int) -> np.ndarray:
        """As `read_audio`."""
        if not self.span:
            return read_audio(self.path, rate)
        with refusing(f"{self.path} cannot be read as audio"), soundfile.SoundFile(self.path) as file:
            file.seek(self.span[0])
            return read_audio(file.read(*self.span[1:], dtype="float32"), rate, file.samplerate)


@dataclass(frozen=True)
class Window:
    """Pieces of recordings that a model is given together, and what their words are to be."""

    pieces: list[np.ndarray]
    direction: Direction


def find_recordings(data: Path, languages: Languages, asked: Direction) -> list[Recording]:
    """The audio of a folder and the folders in it, or of a TSV, each with its direction, which the model can do.

    What is asked for goes first. What is not is said by the TSV's columns `src_lang`, `tgt_lang` and `task`, or by the names of the
    folders directly in a folder, where all of them with audio are named by languages (`es/`, `french/`); or else by the model.

    Raises:
        InputError: if there is no audio, a TSV cannot be read, or the model cannot do what is asked for.
    """
    if data.is_file():
        return list(_listed(data, languages, asked))
    default = languages.resolved(asked)
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{data} holds no audio; give a folder with {', '.join(SUFFIXES)} files, or a TSV that lists them")
    folders = {path: parts[0] if len(parts := path.relative_to(data).parts) > 1 else "" for path in files}
    directions = dict.fromkeys(folders.values(), default)
    if asked.source_lang is None and all(_is_language(folder, languages) for folder in directions):
        directions = {folder: languages.resolved(replace(asked, source_lang=folder)) for folder in directions}
    return [Recording(path, directions[folder], folder) for path, folder in folders.items()]


def _is_language(folder: str, languages: Languages) -> bool:
    return languages.names.get(folder.lower(), folder) in languages.detected


def _listed(table: Path, languages: Languages, asked: Direction) -> Iterator[Recording]:
    for line, row in read_rows(table, ("audio",)):
        listed = {  # of what the model can be asked for
            "source_lang": row.get("src_lang") if languages.sources else None,
            "task": row.get("task") if languages.tasks and asked.task is None else None,
            "target_lang": row.get("tgt_lang") if languages.targets and asked.task is None else None,
        }
        path, *span = row["audio"].split(":")
        try:
            wanted = Direction(**{name: getattr(asked, name) or value or None for name, value in listed.items()})
            yield Recording(table.parent / path, languages.resolved(wanted), span=[int(number) for number in span])
        except ValueError as error:
            raise InputError(f"{table}, line {line}: {error}") from error


def half_minutes(recordings: Iterable[Recording], rate: int) -> Iterator[Window]:
    """What is spoken, in the order of the recordings: of each direction in turn.

    Where the language is to be detected, a half minute is of one folder: it has one language, as far as folders tell.
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
    """What is said between pauses, `SECONDS` in each window at most, pauses counted."""
    together, seconds = [], 0.0
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
