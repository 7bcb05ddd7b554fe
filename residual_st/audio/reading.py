"""Reading audio of any sample rate and number of channels as mono samples at a given rate. Needs no torch.

libsndfile reads wav, flac, mp3, ogg, opus, aiff and more. Other formats, such as m4a and webm, need PyAV. PyAV is optional because
it contains the whole of ffmpeg, which is larger than everything else that a device needs.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import ArrayLike

from residual_st.errors import InputError

Audio = str | Path | BinaryIO | ArrayLike  # a file, its name, or samples; see read_audio
SAMPLE_RATE = 16_000  # Hz, fairseq's default and the rate in the recipe's data configurations
MOST_SAMPLES = 2**28  # maximum length of a decoded and resampled file, 1 GiB: four and a half hours at 16 kHz
CANCELLED = 0.01  # channels cancel each other if their mean has less than this fraction of the loudest channel's energy
_BLOCK_SAMPLES = 2**22  # samples decoded per block
# ffmpeg demuxers for formats that contain the audio; a playlist could make it open other files and addresses
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,amr,asf,avi,flv,mpegts,wav"


def read_audio(audio: Audio, wanted_rate: int, rate: int | None = None, most_samples: int = MOST_SAMPLES) -> np.ndarray:
    """Read audio as mono samples at `wanted_rate` Hz.

    Args:
        audio: a file as str or Path, or open in binary mode, in a format that libsndfile (or ffmpeg, if PyAV is installed) reads;
            or samples as a numpy array or a CPU tensor: floats in [-1, 1] or integers in the range of their type, of shape (n,),
            (n, channels) or (channels, n).
        rate: sample rate of samples in Hz; None for `wanted_rate`. Files contain their sample rate.
        most_samples: maximum length of a file, in mono samples at `wanted_rate`. A small compressed file can contain years of
            silence.

    Returns:
        float32 of shape (n,), in [-1, 1].

    Raises:
        InputError: if a file cannot be read or is too long, or samples have another type or shape, or are not finite.
    """
    name = audio_name(audio)
    if isinstance(audio, (str, Path)) or hasattr(audio, "read"):
        with _naming(name), _opened(audio) as file:
            samples = _decoded(file, wanted_rate, most_samples)
    else:
        samples = resample(to_mono(as_floats(np.asarray(audio))), rate or wanted_rate, wanted_rate)
    if not np.isfinite(samples).all():
        raise InputError(f"{name} contains samples that are not finite numbers")
    return samples


def audio_blocks(audio) -> Iterator[tuple[int, np.ndarray]]:
    """Yield a file's sample rate and mono samples, in blocks of a few minutes.

    Raises:
        InputError: if the file cannot be read.
    """
    with _naming(audio_name(audio)), _opened(audio) as file:
        yield from _blocks(file)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn errors from reading a file into InputErrors that begin with its name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name} {error}") from error
    except (soundfile.LibsndfileError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as audio: {_reason(error)}") from error


def audio_name(audio) -> str:
    """The name of a recording in messages: a file's path, or the name of an open file if it has one."""
    return str(audio) if isinstance(audio, (str, Path)) else str(getattr(audio, "name", "the recording"))


def _reason(error: Exception) -> str:
    return getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)


@contextlib.contextmanager
def _opened(audio) -> Iterator[io.BufferedIOBase]:
    """A seekable binary file; a pipe is read to its end first."""
    with open(audio, "rb") if isinstance(audio, (str, Path)) else contextlib.nullcontext(audio) as file:
        yield file if file.seekable() else io.BytesIO(file.read())


def _decoded(file, wanted_rate: int, most_samples: int) -> np.ndarray:
    """A file's mono samples at `wanted_rate`, decoded block by block up to `most_samples`."""
    pieces, length, stream = [np.zeros(0, np.float32)], 0, None
    for rate, block in _blocks(file):
        length += len(block)
        if length * wanted_rate > most_samples * rate:
            raise InputError(f"is longer than {most_samples / wanted_rate / 60:.0f} minutes; split it")
        if stream is None and rate != wanted_rate:
            stream = soxr.ResampleStream(rate, wanted_rate, 1, dtype="float32")
        pieces.append(block if stream is None else stream.resample_chunk(block))
    if stream is not None:
        pieces.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(pieces)


def _blocks(file) -> Iterator[tuple[int, np.ndarray]]:
    """Yield a file's sample rate and mono samples, block by block."""
    try:
        recording = soundfile.SoundFile(file)
    except soundfile.LibsndfileError as error:
        yield from _blocks_by_ffmpeg(file, error.error_string.rstrip("."))
        return
    with recording:
        if not recording.frames:  # programs that write a wav into a pipe may leave its length at 0
            yield from _blocks_by_ffmpeg(file, "its header says that it contains no samples")
        size = max(1, _BLOCK_SAMPLES // recording.channels)
        while len(block := recording.read(size, dtype="float32", always_2d=True)):
            yield recording.samplerate, mixed(block)


def _blocks_by_ffmpeg(file, refusal: str) -> Iterator[tuple[int, np.ndarray]]:
    """`_blocks` for a file that libsndfile cannot read. Raises InputError with `refusal` if ffmpeg cannot either or is missing."""
    try:
        import av
    except ModuleNotFoundError:
        raise InputError(f"cannot be read as audio: {refusal}; pip install av, which reads m4a, webm and more") from None
    file.seek(0)
    try:
        with av.open(file, options={"format_whitelist": _CONTAINERS}, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise InputError("contains no audio")
            to_floats = av.AudioResampler(format="fltp")
            for decoded in container.decode(audio=0):
                for frame in to_floats.resample(decoded):
                    yield frame.sample_rate, mixed(frame.to_ndarray().T)
    except av.FFmpegError as error:
        raise InputError(f"cannot be read as audio: {refusal}") from error


def as_floats(samples: np.ndarray) -> np.ndarray:
    """Samples as floats; integers are scaled to [-1, 1]. Raises InputError for other types or more than two dimensions."""
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        shape = f"{samples.dtype} of shape {samples.shape}"
        raise InputError(f"audio must be a file or samples of shape (n,), (n, channels) or (channels, n), not {shape}")
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    limits = np.iinfo(samples.dtype)
    middle = (limits.max + limits.min + 1) / 2  # 0 for signed integers, 128 for 8-bit wav
    return ((samples.astype(np.float64) - middle) / (limits.max + 1 - middle)).astype(np.float32)


def to_mono(samples: np.ndarray) -> np.ndarray:
    """(n,), (n, channels) or (channels, n) -> (n,). The larger dimension is taken for time."""
    if samples.ndim == 1:
        return samples
    return mixed(samples if np.argmin(samples.shape) == 1 else samples.T)


def mixed(channels: np.ndarray) -> np.ndarray:
    """(n, channels), n may be 0 -> mean of the channels (n,), or the loudest channel if they cancel (opposite polarity)."""
    mean = channels.mean(axis=1)
    energies = np.square(channels).sum(axis=0)
    loudest = int(np.argmax(energies))
    return mean if np.square(mean).sum() >= CANCELLED * energies[loudest] else channels[:, loudest]


def resample(samples: np.ndarray, rate: int, wanted_rate: int) -> np.ndarray:
    """(n,) at `rate` -> about n * wanted_rate / rate samples at `wanted_rate`, without aliasing."""
    return samples if rate == wanted_rate else soxr.resample(samples, rate, wanted_rate)
