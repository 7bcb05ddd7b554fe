"""Log-mel filterbanks of all segments, in one uncompressed zip that fairseq reads by byte offset."""

import io
import os
import struct
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from must_c import Problem, Talk
from residual_st.audio.filterbank import filterbank
from residual_st.audio.reading import SAMPLE_RATE, resample, to_mono
from residual_st.errors import InputError

LEAST_VARIANCE = 1e-8  # fairseq's
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # zip specification (APPNOTE 4.3.7)


class Entry(NamedTuple):
    """Position of an utterance's features in the zip in bytes, and their number of frames (10 ms each)."""

    offset: int
    size: int
    n_frames: int


def _extract(talk: Talk) -> tuple[list[tuple[str, bytes]], list[Problem]]:
    """The talk's segments as .npy bytes, and the segments that could not be read."""
    features, problems = [], []
    if not talk.segments:
        return features, problems
    with soundfile.SoundFile(talk.wav) as recording:
        for segment in talk.segments:
            try:
                recording.seek(segment.start)
                samples = to_mono(recording.read(segment.length, dtype="float32", always_2d=True))
            except (soundfile.LibsndfileError, RuntimeError) as error:
                problems.append(Problem(f"{talk.wav}, segment {segment.id}: cannot be read as audio ({error})"))
                continue
            buffer = io.BytesIO()
            np.save(buffer, filterbank(resample(samples, talk.sample_rate, SAMPLE_RATE), SAMPLE_RATE))
            features.append((segment.id, buffer.getvalue()))
    return features, problems


def write_features(talks: Iterable[Talk], path: Path, workers: int) -> Iterator[tuple[Talk, list[Problem]]]:
    """Write the features of all talks to `path`, yielding each talk when it is done, with its problems.

    The zip is written as `path.partial` and renamed when complete. After an interruption, even by a power cut, the next call keeps
    the complete entries and computes the rest.
    """
    partial = path.with_name(path.name + ".partial")
    entries = _recover(partial) if partial.exists() else []
    done = {entry.filename.removesuffix(".npy") for entry in entries}
    with open(partial, "r+b" if entries else "wb") as file:
        if entries:
            file.truncate(file.seek(_data_offset(entries[-1]) + entries[-1].file_size))
        # Entries are stored, not deflated, and have names in ASCII and no extra fields: fairseq seeks to header + 30 + len(name).
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive, ProcessPoolExecutor(workers) as pool:
            for entry in entries:
                archive.filelist.append(entry)
                archive.NameToInfo[entry.filename] = entry
            for talk, (features, problems) in _map_in_order(pool, talks, done, ahead=4 * workers):
                for utterance, data in features:
                    archive.writestr(_new_entry(f"{utterance}.npy"), data)
                yield talk, problems
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def global_statistics(places: Iterable[str]) -> dict[str, np.ndarray]:
    """Statistics for fairseq's `global_cmvn`: `mean` and `std` per bin over all frames at places such as `fbank80.zip:123:456`."""
    count, sums, squares = 0, 0.0, 0.0
    for place in places:
        path, offset, size = place.rsplit(":", 2)
        with open(path, "rb") as file:
            file.seek(int(offset))
            frames = np.load(io.BytesIO(file.read(int(size)))).astype(np.float64)
        count, sums, squares = count + len(frames), sums + frames.sum(axis=0), squares + np.square(frames).sum(axis=0)
    mean = sums / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, LEAST_VARIANCE))
    return {"mean": mean.astype(np.float32), "std": deviation.astype(np.float32)}


def _map_in_order(pool: ProcessPoolExecutor, talks: Iterable[Talk], done: set[str], ahead: int):
    """Extract the missing features in order, reading at most `ahead` talks in advance, which bounds memory."""
    pending = deque()
    for talk in talks:
        remaining = talk._replace(segments=[segment for segment in talk.segments if segment.id not in done])
        pending.append((talk, pool.submit(_extract, remaining)))
        if len(pending) > ahead:
            talk, future = pending.popleft()
            yield talk, future.result()
    for talk, future in pending:
        yield talk, future.result()


def _new_entry(name: str) -> zipfile.ZipInfo:
    """An entry with fixed date and permissions, so that the same features give the same bytes."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o644 << 16
    return entry


def _data_offset(entry: zipfile.ZipInfo) -> int:
    return entry.header_offset + _LOCAL_HEADER.size + len(entry.filename)


def _walk(file: BinaryIO) -> Iterator[zipfile.ZipInfo]:
    """Iterate over the entries of an uncompressed zip, complete or truncated, with the file positioned at the entry's data.

    zipfile would keep all entries in memory, and reads only complete zips.
    """
    end = file.seek(0, io.SEEK_END)
    offset = 0
    while True:
        file.seek(offset)
        header = file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            return
        signature, _, flags, method, _, _, crc, _, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        if signature != zipfile.stringFileHeader or flags or method or extra_length:
            return
        entry = _new_entry(file.read(name_length).decode("ascii", "replace"))
        entry.header_offset, entry.CRC, entry.compress_size, entry.file_size = offset, crc, size, size
        offset = file.tell() + size
        if offset > end:
            return
        yield entry


def _recover(partial: Path) -> list[zipfile.ZipInfo]:
    """The complete entries of a zip that was truncated before its central directory was written."""
    entries = []
    with open(partial, "rb") as file:
        for entry in _walk(file):
            if zipfile.crc32(file.read(entry.file_size)) != entry.CRC:
                break
            entries.append(entry)
    return entries


def read_index(path: Path) -> dict[str, Entry]:
    """Utterance id -> place in the zip, of a zip made by this recipe or by fairseq's.

    Raises InputError if the file is not such a zip.
    """
    index = {}
    with open(path, "rb") as file:
        whole = zipfile.is_zipfile(file)
        try:
            for entry in _walk(file):
                np.lib.format.read_magic(file)
                shape, _, _ = np.lib.format.read_array_header_1_0(file)
                index[entry.filename.removesuffix(".npy")] = Entry(_data_offset(entry), entry.file_size, shape[0])
        except ValueError:
            whole = False
    if not whole or not index:
        raise InputError(f"{path} is not an uncompressed zip of filterbanks; remove it to create it again")
    return index
