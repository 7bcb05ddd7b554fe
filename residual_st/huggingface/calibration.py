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
from torch import Tensor, nn

from residual_st.audio.lengths import Lengths
from residual_st.audio.pauses import split_at_pauses
from residual_st.audio.reading import read_audio
from residual_st.compression import Calibration
from residual_st.errors import InputError
from residual_st.huggingface.folder import feature_extractor
from residual_st.huggingface.generation import greedy_words
from residual_st.progress import progress

BATCH_SECONDS = 30.0  # Whisper's window, and as much of other models' utterances
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff")
_PAUSE_SECONDS = 0.5  # between utterances in one window
_TRANSCRIBED_TOGETHER = 8  # windows: a step of the decoder takes one about as long as eight


@dataclass(frozen=True)
class AudioBatch:
    """What an encoder is given, the words that the dense model transcribed, and how many of them come from the prompt."""

    inputs: dict[str, Tensor]
    words: Tensor
    prompt: int


@dataclass(frozen=True)
class HeldOut:
    """Batches that calibration does not see."""

    batches: list[AudioBatch]

    def likelihood(self, model: nn.Module) -> dict[str, float]:
        """The loss per word of the dense model's own words, base 2."""
        words = sum(int(_counted(model, batch).sum()) for batch in self.batches)
        with torch.no_grad():
            loss = sum(_loss(model, batch).item() for batch in self.batches)
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
    made = list(_transcribe(model, extractor, pieces))
    first, rest = made[:wanted], made[wanted:]
    held_out = max(1, len(first) // 11)
    return Calibration(first[:-held_out], _loss, _encode, _predict, rest), HeldOut(first[-held_out:])


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


def _transcribe(model: transformers.PreTrainedModel, extractor, batches: list[list[np.ndarray]]) -> Iterator[AudioBatch]:
    rate, shown = extractor.sampling_rate, partial(progress, desc="transcribing", unit="batch")
    if model.config.model_type != "whisper":
        for pieces in shown(batches):
            inputs = extractor(pieces, sampling_rate=rate, return_tensors="pt", padding=True, return_attention_mask=True)
            yield _transcribed(model, inputs)
        return
    # a window is half a minute long, whatever is in it
    pause = np.zeros(round(_PAUSE_SECONDS * rate), np.float32)
    windows = [np.concatenate([part for piece in pieces for part in (piece, pause)]) for pieces in batches]
    for start in shown(range(0, len(windows), _TRANSCRIBED_TOGETHER)):
        together = [window[: round(BATCH_SECONDS * rate)] for window in windows[start : start + _TRANSCRIBED_TOGETHER]]
        heard = _transcribed(model, extractor(together, sampling_rate=rate, return_tensors="pt"))
        lengths = heard.prompt + _counted(model, heard).sum(1)
        for window, words, length in zip(heard.inputs["input_features"], heard.words, lengths.tolist()):
            yield AudioBatch({"input_features": window[None]}, words[None, :length], heard.prompt)


def _transcribed(model: transformers.PreTrainedModel, inputs: transformers.BatchFeature) -> AudioBatch:
    inputs = dict(inputs.to(model.device, model.dtype))
    return AudioBatch(inputs, *greedy_words(model, inputs, model.config.max_target_positions))


def _counted(model: nn.Module, batch: AudioBatch) -> Tensor:
    """The words and the end of each utterance, of those behind the prompt: (batch, words), True where they count."""
    ends = batch.words[:, batch.prompt :] == model.config.eos_token_id
    return ends.cumsum(1) - ends.long() == 0


def _loss(model: nn.Module, batch: AudioBatch) -> Tensor:
    """Of the words that `_counted` counts, summed."""
    words = batch.words[:, batch.prompt :][_counted(model, batch)]
    return nn.functional.cross_entropy(_predict(model, batch).float(), words, reduction="sum")


def _predict(model: nn.Module, batch: AudioBatch) -> Tensor:
    """Scores (words that count, vocabulary)."""
    logits = model(**batch.inputs, decoder_input_ids=batch.words[:, :-1]).logits[:, batch.prompt - 1 :]
    return logits[_counted(model, batch)]


def _encode(model: nn.Module, batch: AudioBatch) -> None:
    model.get_encoder()(**batch.inputs)
