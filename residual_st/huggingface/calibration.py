"""Calibration data from audio files without labels: the model's own words take their place."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn

from residual_st.audio.lengths import Lengths
from residual_st.audio.pauses import split_at_pauses
from residual_st.audio.reading import read_audio
from residual_st.compression import Calibration
from residual_st.errors import InputError
from residual_st.huggingface.folder import feature_extractor
from residual_st.huggingface.kinds import kind_of, words_of
from residual_st.huggingface.words import AudioBatch, OwnWords
from residual_st.progress import progress

BATCH_SECONDS = 30.0  # a window, and as much of other models' utterances
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff")
_PAUSE_SECONDS = 0.5  # between utterances in one window
_TRANSCRIBED_TOGETHER = 8  # windows: a step of the decoder takes one about as long as eight


@dataclass(frozen=True)
class HeldOut:
    """Batches that calibration does not see, with the dense model's own words."""

    batches: list[AudioBatch]
    own: OwnWords

    def likelihood(self, model: nn.Module) -> dict[str, float]:
        """The loss per word of the dense model's own words, base 2."""
        words = sum(self.own.count(model, batch) for batch in self.batches)
        with torch.no_grad():
            loss = sum(self.own.loss(model, batch).item() for batch in self.batches)
        return {"loss": loss / words / math.log(2)}


def audio_calibration(
    model: transformers.PreTrainedModel, source: Path, audio: Path, batches: int, seed: int, more: int = 0
) -> tuple[Calibration, HeldOut]:
    """Batches of up to half a minute of the audio files in a folder and the folders in it, in random order.

    Args:
        source: the model's folder, for its feature extractor.
        audio: the folder.
        batches: to calibrate on; fewer where there is less audio. A tenth more, one at least, is held out.
        more: further batches, which refinement alone uses; fewer or none where there is less audio.

    Raises:
        InputError: if there is no audio, or too little speech to hold any out, or a file cannot be read.
    """
    extractor = feature_extractor(source)
    files = sorted(path for path in audio.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{audio} holds no audio; give a folder with {', '.join(SUFFIXES)} files")
    random.Random(seed).shuffle(files)
    wanted = batches + max(1, batches // 10)
    pieces = list(islice(_half_minutes(files, extractor.sampling_rate), wanted + more))
    if len(pieces) < 2:
        raise InputError(f"{audio} holds less than {BATCH_SECONDS:.0f} s of speech; calibration needs twice as much at least")
    kind, own = kind_of(model), words_of(model)

    def encode(model: nn.Module, batch: AudioBatch) -> None:
        kind.encode(model)(**batch.inputs)

    made = list((_of_windows if kind.in_windows else _of_utterances)(model, extractor, pieces))
    first, rest = made[:wanted], made[wanted:]
    held_out = max(1, len(first) // 11)
    return Calibration(first[:-held_out], own.loss, encode, own.predict, rest), HeldOut(first[-held_out:], own)


def _half_minutes(files: list[Path], rate: int) -> Iterator[list[np.ndarray]]:
    """Yield lists of pieces that last half a minute together, pauses counted."""
    pieces, seconds = [], 0.0
    for path in files:
        for piece in split_at_pauses(read_audio(path, rate), rate, Lengths(BATCH_SECONDS, BATCH_SECONDS)):
            length = len(piece) / rate + _PAUSE_SECONDS
            if pieces and seconds + length > BATCH_SECONDS:
                yield pieces
                pieces, seconds = [], 0.0
            pieces.append(piece)
            seconds += length
    if pieces:
        yield pieces


def _of_utterances(model: transformers.PreTrainedModel, extractor, batches: list[list[np.ndarray]]) -> Iterator[AudioBatch]:
    """Batches of half a minute, padded."""
    options = {"return_attention_mask": True} if kind_of(model).asks_for_mask else {}
    for pieces in _shown(batches):
        inputs = extractor(pieces, sampling_rate=extractor.sampling_rate, return_tensors="pt", padding=True, **options)
        yield _transcribed(model, inputs)


def _of_windows(model: transformers.PreTrainedModel, extractor, batches: list[list[np.ndarray]]) -> Iterator[AudioBatch]:
    """One utterance after another in each half minute."""
    rate = extractor.sampling_rate
    pause = np.zeros(round(_PAUSE_SECONDS * rate), np.float32)
    windows = [np.concatenate([part for piece in pieces for part in (piece, pause)]) for pieces in batches]
    for start in _shown(range(0, len(windows), _TRANSCRIBED_TOGETHER)):
        together = [window[: round(BATCH_SECONDS * rate)] for window in windows[start : start + _TRANSCRIBED_TOGETHER]]
        batch = _transcribed(model, extractor(together, sampling_rate=rate, return_tensors="pt"))
        yield from words_of(model).apart(model, batch)


_shown = partial(progress, desc="transcribing", unit="batch")


def _transcribed(model: transformers.PreTrainedModel, inputs: transformers.BatchFeature) -> AudioBatch:
    return words_of(model).write(model, dict(inputs.to(model.device, model.dtype)))
