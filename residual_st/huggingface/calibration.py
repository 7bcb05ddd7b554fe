"""Calibration data from audio files without labels: the model's own words take their place."""

import contextlib
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
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
from residual_st.huggingface.kinds import kind_of, words_of
from residual_st.huggingface.short_windows import BEFORE, BEHIND, at_places, places
from residual_st.huggingface.words import AudioBatch, DecodedWords, OwnWords
from residual_st.progress import progress

BATCH_SECONDS = 30.0  # a window, and as much of other models' utterances
REFINE_SECONDS = 10.0  # of windows that refinement alone uses, where the model takes shorter ones: attention costs a third of 30 s'
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
    rate = extractor.sampling_rate
    pieces = list(islice(_packed(_pieces(files, rate), rate, BATCH_SECONDS), wanted + more))
    if len(pieces) < 2:
        raise InputError(f"{audio} holds less than {BATCH_SECONDS:.0f} s of speech; calibration needs twice as much at least")
    kind, own = kind_of(model), words_of(model)

    def encode(model: nn.Module, batch: AudioBatch) -> None:
        with _placed(model, batch):
            kind.encode(model, batch.inputs)

    def predict(model: nn.Module, batch: AudioBatch) -> Tensor:
        with _placed(model, batch):
            return own.predict(model, batch)

    first, rest = pieces[:wanted], pieces[wanted:]
    made = _of_utterances if extractor.return_attention_mask and not kind.in_windows else _of_windows
    first = list(made(model, extractor, first))
    if kind.in_short_windows:
        shorter = Lengths(REFINE_SECONDS, REFINE_SECONDS)
        short = (piece for half in rest for whole in half for piece in split_at_pauses(whole, rate, shorter))
        rest = _of_short_windows(model, extractor, list(_packed(short, rate, REFINE_SECONDS)), seed)
    else:
        rest = list(made(model, extractor, rest))
    held_out = max(1, len(first) // 11)
    return Calibration(first[:-held_out], own.loss, encode, own.predict and predict, rest), HeldOut(first[-held_out:], own)


def _placed(model: nn.Module, batch: AudioBatch) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if batch.places is None else at_places(model.get_encoder(), batch.places)


def _pieces(files: list[Path], rate: int) -> Iterator[np.ndarray]:
    """What is said between pauses, half a minute at most."""
    for path in files:
        yield from split_at_pauses(read_audio(path, rate), rate, Lengths(BATCH_SECONDS, BATCH_SECONDS))


def _packed(pieces: Iterable[np.ndarray], rate: int, longest: float) -> Iterator[list[np.ndarray]]:
    """Yield lists of pieces that last so many seconds together, pauses counted. A longer piece is alone in one."""
    together, seconds = [], 0.0
    for piece in pieces:
        length = len(piece) / rate + _PAUSE_SECONDS
        if together and seconds + length > longest:
            yield together
            together, seconds = [], 0.0
        together.append(piece)
        seconds += length
    if together:
        yield together


def _of_utterances(model: transformers.PreTrainedModel, extractor, batches: list[list[np.ndarray]]) -> Iterator[AudioBatch]:
    """Batches of half a minute, padded."""
    for pieces in _shown(batches):
        yield _transcribed(model, _features(extractor, pieces, padding=True))


def _of_windows(model: transformers.PreTrainedModel, extractor, batches: list[list[np.ndarray]]) -> Iterator[AudioBatch]:
    """One utterance after another in each half minute, without padding that a mask would have to tell."""
    own, windows = words_of(model), _joined(batches, extractor.sampling_rate)
    together = _TRANSCRIBED_TOGETHER if isinstance(own, DecodedWords) and kind_of(model).in_windows else 1
    for start in _shown(range(0, len(windows), together)):
        batch = _transcribed(model, _features(extractor, windows[start : start + together]))
        yield from own.apart(model, batch) if together > 1 else [batch]


def _of_short_windows(
    model: transformers.PreTrainedModel, extractor, batches: list[list[np.ndarray]], seed: int
) -> list[AudioBatch]:
    """Likewise, in windows as long as what is in them and some silence, half of them at the beginning and the others later."""
    rate, encoder = extractor.sampling_rate, model.get_encoder()
    before = np.zeros(round(BEFORE * rate), np.float32)
    windows = sorted((np.concatenate([before, window]) for window in _joined(batches, rate)), key=len)
    made, drawn = [], random.Random(seed)
    for start in _shown(range(0, len(windows), _TRANSCRIBED_TOGETHER)):
        together = windows[start : start + _TRANSCRIBED_TOGETHER]
        inputs = _features(extractor, together)
        seconds = math.ceil(len(together[-1]) / rate + BEHIND)
        at = partial(places, seconds, BATCH_SECONDS, encoder.config.max_source_positions)
        features = inputs["input_features"]
        inputs["input_features"] = features[..., : round(features.size(-1) * seconds / BATCH_SECONDS)]
        with at_places(encoder, at(0)):
            batch = _transcribed(model, inputs)
        made += [replace(one, places=at(drawn.choice((0, drawn.random())))) for one in words_of(model).apart(model, batch)]
    drawn.shuffle(made)
    return made


def _joined(batches: list[list[np.ndarray]], rate: int) -> list[np.ndarray]:
    """One window for each batch: its pieces, with a pause behind each."""
    pause = np.zeros(round(_PAUSE_SECONDS * rate), np.float32)
    windows = (np.concatenate([part for piece in pieces for part in (piece, pause)]) for pieces in batches)
    return [window[: round(BATCH_SECONDS * rate)] for window in windows]


def _features(extractor, samples: list[np.ndarray], **options) -> transformers.BatchFeature:
    has_mask = extractor.return_attention_mask  # Whisper's makes one of samples, and not of frames, unless it is told here
    return extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt", return_attention_mask=has_mask, **options)


_shown = partial(progress, desc="transcribing", unit="batch")


def _transcribed(model: transformers.PreTrainedModel, inputs: transformers.BatchFeature) -> AudioBatch:
    return words_of(model).write(model, dict(inputs.to(model.device, model.dtype)))
