"""Manifests of fairseq's speech_to_text task, with checks that its data set makes too late or never. Imports no fairseq."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from residual_st.audio.lengths import DEFAULT, FRAMES_PER_SECOND, SHORTEST_SECONDS, Lengths
from residual_st.errors import InputError, refusing

COLUMNS = ("id", "audio", "n_frames", "tgt_text")
_MOST_FRAMES = 2**31
_LOOKED_AT = 20  # number of rows, spread over a manifest, whose audio is opened
_FARTHEST = 2.0  # accepted ratio between n_frames and the true length, for rounding and other frame shifts


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """All rows of a TSV with these columns, each with its line number.

    Raises:
        InputError: if there are no rows, or a column or a field is missing.
    """
    has_rows = False
    with refusing(f"{path} cannot be read"), open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(reader, [])
        missing = [column for column in columns if column not in header]
        if missing:
            has = f"a manifest must have the columns {', '.join(columns)}" if len(columns) > 1 else "it must have one"
            raise InputError(f"{path} has no column `{missing[0]}`; {has}")
        for fields in filter(None, reader):
            if len(fields) != len(header):
                raise InputError(f"{path}, line {reader.line_num}, has {len(fields)} fields, but the header has {len(header)}")
            has_rows = True
            yield reader.line_num, dict(zip(header, fields))
    if not has_rows:
        raise InputError(f"{path} lists no utterance")


def read_manifest(path: Path) -> list[dict[str, str]]:
    """All rows of a manifest. Raises InputError, see `read_rows`; also for an invalid number of frames."""
    rows = []
    for line, row in read_rows(path, COLUMNS):
        frames = row["n_frames"]
        if not frames.strip().isdecimal() or not 0 < int(frames) < _MOST_FRAMES:
            raise InputError(f"{path}, line {line}: n_frames must be a whole number above 0, not {frames[:20]!r}")
        rows.append(row)
    return rows


def check_manifest(path: Path, config) -> list[int]:
    """The `n_frames` of all rows, after comparing some of them with their audio or features.

    Args:
        config: fairseq's `S2TDataConfig`, which defines whether n_frames are frames of 10 ms or (`use_audio_input`) samples.

    Raises:
        InputError: see `read_manifest`; also if audio is missing or n_frames is far from its length.
    """
    rows = read_manifest(path)
    frames = [int(row["n_frames"]) for row in rows]
    chosen = {index * len(rows) // _LOOKED_AT for index in range(_LOOKED_AT)}
    for index in sorted(chosen | {frames.index(min(frames)), frames.index(max(frames))}):
        row = rows[index]
        with refusing(f"audio or features of {row['id']} in {path} cannot be read"):
            length = max(1, _length(str(Path(config.audio_root) / row["audio"]), config))
        if not 1 / _FARTHEST <= frames[index] / length <= _FARTHEST:
            unit = "samples (use_audio_input)" if config.use_audio_input else "frames of 10 ms"
            raise InputError(
                f"{path}: n_frames of {row['id']} (row {index + 1}) is {frames[index]}, but must be {length}; its unit is {unit}"
            )
    return frames


def _length(audio: str, config) -> int:
    """Length of the audio or features that fairseq finds under this name."""
    from fairseq.data.audio.audio_utils import is_npy_data, parse_path, read_from_stored_zip

    path, span = parse_path(audio)
    if span and not path.endswith(".zip"):
        raise ValueError(f"{audio}: OFFSET:LENGTH must belong to a .zip")
    content = read_from_stored_zip(path, *span) if span else b""
    if is_npy_data(content) if content else path.endswith(".npy"):
        return len(np.load(io.BytesIO(content) if content else path, mmap_mode=None if content else "r"))
    import soundfile

    sound = soundfile.info(io.BytesIO(content) if content else path)
    return round(sound.duration * (config.use_sample_rate if config.use_audio_input else 100))


def trained_lengths(data: str | Path, subsets: str | None, most_frames: int) -> Lengths:
    """The segment lengths for a model, from the segments that it was trained on.

    Args:
        data: the folder with the manifests.
        subsets: the training subsets: one name, or several separated by commas.
        most_frames: maximum number of frames of the model. fairseq skips longer segments in training, so they do not count here.

    Returns:
        The 99th percentile of the segments' lengths; the defaults if there are no manifests or `n_frames` are not frames of 10 ms.
    """
    manifests = [path for name in (subsets or "").split(",") if (path := Path(data) / f"{name}.tsv").is_file()]
    frames = [int(row["n_frames"]) for path in manifests for row in read_manifest(path)]
    frames = [each for each in frames if each <= most_frames]
    longest = math.ceil(np.percentile(frames, 99) / 10) * 10 / FRAMES_PER_SECOND if frames else 0.0
    return Lengths(longest) if longest >= SHORTEST_SECONDS else DEFAULT
