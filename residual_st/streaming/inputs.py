"""Audio inputs: microphone, raw samples, recording. Each yields samples and their rate as they arrive."""

import contextlib
import io
import queue
import time
from collections.abc import Iterator

import numpy as np

from residual_st.audio.reading import audio_blocks
from residual_st.errors import InputError

Piece = tuple[np.ndarray, int]
SAMPLE_TYPES = {"s16le": "<i2", "s32le": "<i4", "f32le": "<f4", "u8": "u1"}  # ffmpeg's names
BLOCK_SECONDS = 0.1


def microphone(device: str | int | None = None) -> Iterator[Piece]:
    """Samples from a microphone, without an end. Each piece contains everything recorded since the last one.

    Args:
        device: number or part of the name of the microphone; None for the system's default.

    Raises:
        InputError: if it cannot be opened.
        ModuleNotFoundError: without the package sounddevice.
    """
    try:
        import sounddevice
    except OSError as error:  # sounddevice is installed, but not the PortAudio library
        raise InputError(
            "PortAudio is not installed: apt install libportaudio2, or brew install portaudio; or give a file or -"
        ) from error
    recorded: queue.Queue[np.ndarray] = queue.Queue()
    try:
        rate = int(sounddevice.query_devices(device, "input")["default_samplerate"])
        recording = sounddevice.InputStream(
            samplerate=rate,
            blocksize=round(BLOCK_SECONDS * rate),
            device=device,
            channels=1,
            dtype="float32",
            callback=lambda block, *_: recorded.put(block[:, 0].copy()),
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        named = "the system's microphone" if device is None else f"--device {device}"
        raise InputError(f"{named} cannot be opened: {error}; python -m sounddevice lists the devices") from error
    with recording:
        while True:
            pieces = [recorded.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    pieces.append(recorded.get_nowait())
            yield np.concatenate(pieces), rate


def raw(file: io.BufferedIOBase, rate: int, channels: int, sample_type: str) -> Iterator[Piece]:
    """Raw samples from a pipe, up to its end; an incomplete last sample is dropped.

    Args:
        sample_type: one of `SAMPLE_TYPES`.

    Raises:
        InputError: for an unknown sample type.
    """
    if sample_type not in SAMPLE_TYPES:
        raise InputError(f"sample_type={sample_type} is not known; it must be one of {', '.join(SAMPLE_TYPES)}")
    kind, rest = np.dtype(SAMPLE_TYPES[sample_type]), b""
    frame = kind.itemsize * channels
    while read := file.read1(max(1, round(BLOCK_SECONDS * rate)) * frame):
        whole = rest + read
        size = len(whole) // frame * frame
        rest = whole[size:]
        yield np.frombuffer(whole[:size], kind).reshape(-1, channels), rate


def recording(path: str, at_its_speed: bool) -> Iterator[Piece]:
    """The samples of a file, in real time (`at_its_speed`) or as fast as they are consumed.

    Raises:
        InputError: if it cannot be read.
    """
    began, sent = time.monotonic(), 0.0
    for rate, block in audio_blocks(path):
        size = max(1, round(BLOCK_SECONDS * rate))
        while len(block):
            if at_its_speed:
                time.sleep(max(0.0, began + sent + BLOCK_SECONDS - time.monotonic()))
                size = max(1, round((time.monotonic() - began - sent) * rate))
            piece, block = block[:size], block[size:]
            sent += len(piece) / rate
            yield piece, rate
