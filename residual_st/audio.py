"""Audio of any rate, format and number of channels, as the samples that filterbanks are computed from. Needs no torch."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from residual_st.errors import InputError

SAMPLE_RATE = 16_000  # Hz, fairseq's default, and what the recipe writes into data configurations
PAUSE_SECONDS = 0.3  # of quiet between two pieces of a long recording
SHORTEST_SECONDS = 1.0  # of a piece
MARGIN_SECONDS = 0.1  # of a pause that stay on each side
MOST_SAMPLES = 2**28  # of a file once it is decoded and resampled, 1 GiB: four and a half hours at 16 kHz
_BLOCK_SAMPLES = 2**22  # that are decoded at a time
_FRAME_SECONDS = 0.01
_LEAST_RANGE_DB = 6.0  # between pauses and speech
_SILENCE_DB = 60.0  # below speech


def read_audio(audio, wanted_rate: int, rate: int | None = None, most_samples: int = MOST_SAMPLES) -> np.ndarray:
    """Mono samples at `wanted_rate`.

    Args:
        audio: a file of any format that libsndfile reads, as str or Path, or open for reading bytes; or samples as a numpy array or
            a CPU tensor: floats in [-1, 1] or integers in the range of their type, shape (n,), (n, channels) or (channels, n).
        rate: Hz, of samples; None for `wanted_rate`. Files have their own.
        most_samples: of a file, mono and at `wanted_rate`. A small file of silence can be of years.

    Returns:
        float32 of shape (n,), in [-1, 1].

    Raises:
        InputError: if a file cannot be read or is too long, or samples are of another type or shape, or not finite.
    """
    name = "the audio"
    if isinstance(audio, (str, Path)) or hasattr(audio, "read"):
        name = audio if isinstance(audio, (str, Path)) else "the input"
        try:
            samples = _decoded(audio, wanted_rate, most_samples)
        except InputError as error:
            raise InputError(f"{name} {error}") from error
        except (soundfile.LibsndfileError, OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{name} cannot be read as audio: {error}") from error
    else:
        samples = resample(to_mono(_as_floats(np.asarray(audio))), rate or wanted_rate, wanted_rate)
    if not np.isfinite(samples).all():
        raise InputError(f"{name} has samples that are not finite numbers")
    return samples


def _decoded(file, wanted_rate: int, most_samples: int) -> np.ndarray:
    """A file's samples, mono and at a rate, a block at a time; no more of it is decoded than may be."""
    pieces, length, last = [np.zeros(0, np.float32)], 0, False
    with soundfile.SoundFile(file) as recording:
        rate, size = recording.samplerate, max(1, _BLOCK_SAMPLES // recording.channels)
        stream = None if rate == wanted_rate else soxr.ResampleStream(rate, wanted_rate, 1, dtype="float32")
        while not last:
            block = recording.read(size, dtype="float32", always_2d=True)
            length += len(block)
            if length * wanted_rate > most_samples * rate:
                raise InputError(f"is longer than {most_samples / wanted_rate / 60:.0f} minutes; cut it into pieces")
            last, block = len(block) < size, block.mean(axis=1)
            pieces.append(block if stream is None else stream.resample_chunk(block, last=last))
    return np.concatenate(pieces)


def _as_floats(samples: np.ndarray) -> np.ndarray:
    """Floats as they are, integers brought to [-1, 1]."""
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        given = f"{samples.dtype} of shape {samples.shape}"
        raise InputError(f"audio must be a file or samples of shape (n,), (n, channels) or (channels, n), not {given}")
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    limits = np.iinfo(samples.dtype)
    middle = (limits.max + limits.min + 1) / 2  # 0 for signed integers, 128 for 8-bit wav
    return ((samples.astype(np.float64) - middle) / (limits.max + 1 - middle)).astype(np.float32)


def to_mono(samples: np.ndarray) -> np.ndarray:
    """(n,), (n, channels) or (channels, n) -> (n,). Recordings have more samples than channels."""
    return samples if samples.ndim == 1 else samples.mean(axis=int(np.argmin(samples.shape)))


def resample(samples: np.ndarray, rate: int, wanted_rate: int) -> np.ndarray:
    """(n,) at one rate -> about n * wanted_rate / rate samples at another, without aliasing."""
    return samples if rate == wanted_rate else soxr.resample(samples, rate, wanted_rate)


def split_at_pauses(samples: np.ndarray, rate: int, longest_seconds: float) -> list[np.ndarray]:
    """The pieces between the cuts of `spans_between_pauses`."""
    return [samples[start:end] for start, end in spans_between_pauses(samples, rate, longest_seconds)]


def spans_between_pauses(samples: np.ndarray, rate: int, longest_seconds: float) -> list[tuple[int, int]]:
    """Cut a recording that is longer than `longest_seconds` at its pauses: first sample of each piece, and the one behind its last.

    A pause is 0.3 s or more with a level nearer to the quietest tenth than to the loudest twentieth, if these differ by 6 dB. It is
    left out but for 0.1 s on each side: features are normalised over an utterance, and long silence would shift them. Pieces
    shorter than 1 s are joined to the one before; those that are still too long are cut where they are quietest.
    """
    if len(samples) <= longest_seconds * rate:
        return [(0, len(samples))]
    size = round(_FRAME_SECONDS * rate)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    level = 10 * np.log10(np.mean(frames.astype(np.float64) ** 2, axis=1) + 1e-10)
    level = np.convolve(level, np.ones(5) / 5, mode="same")
    floor, peak = np.percentile(level, [10, 95])
    quiet = (level < (floor + peak) / 2) & (peak - floor > _LEAST_RANGE_DB)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]]))).reshape(-1, 2)
    pauses = edges[np.diff(edges, axis=1)[:, 0] * _FRAME_SECONDS >= PAUSE_SECONDS]
    shortest, longest, margin = (round(seconds / _FRAME_SECONDS) for seconds in (SHORTEST_SECONDS, longest_seconds, MARGIN_SECONDS))
    spans = []
    for start, end in zip([0, *pauses[:, 1] - margin], [*pauses[:, 0] + margin, len(level)]):
        if spans and min(end - start, spans[-1][1] - spans[-1][0]) < shortest:
            spans[-1][1] = end
        elif end - start > 2 * margin:  # otherwise the recording begins or ends with a pause
            spans.append([start, end])
    spans = [_without_digital_silence(level > peak - _SILENCE_DB, start, end) for start, end in spans]
    cuts = [_cut_long(level, [start, end], longest) for start, end in spans]
    return [(start * size, end * size) for piece in cuts for start, end in zip(piece, piece[1:])]


def _without_digital_silence(audible: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """A span of frames without digital silence at its ends, whose features are far from those of any room."""
    inside = np.flatnonzero(audible[start:end])
    return (start, end) if not len(inside) else (start + inside[0], start + inside[-1] + 1)


def _cut_long(level: np.ndarray, cuts: list[int], longest: int) -> list[int]:
    """Cuts between pieces of at most `longest` frames; new ones fall where the middle half of a piece is quietest."""
    result = [cuts[0]]
    for end in cuts[1:]:
        start = result[-1]
        if end - start > longest:
            quarter = (end - start) // 4
            middle = start + quarter + int(np.argmin(level[start + quarter : end - quarter]))
            result += _cut_long(level, [start, middle, end], longest)[1:]
        else:
            result.append(end)
    return result
