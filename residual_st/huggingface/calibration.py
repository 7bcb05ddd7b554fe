"""Calibration data from audio files without labels; the model's own output words replace labels."""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import transformers

from residual_st.compression import Calibration
from residual_st.errors import InputError
from residual_st.huggingface.folder import feature_extractor
from residual_st.huggingface.kinds import kind_of, words_of
from residual_st.huggingface.languages import generate_kwargs_of, languages_of
from residual_st.huggingface.recordings import PAUSE_SECONDS, SECONDS, Window, find_recordings, half_minutes
from residual_st.huggingface.words import AudioBatch, DecodedWords, OwnWords
from residual_st.languages import Direction
from residual_st.progress import progress

_TRANSCRIBED_TOGETHER = 8  # windows per batch: a decoder step takes about equally long for one and for eight

Write = Callable[[transformers.BatchFeature, Direction], AudioBatch]  # generates the model's own words


@dataclass(frozen=True)
class HeldOut:
    """Batches held out from calibration, with the dense model's own words."""

    batches: list[AudioBatch]
    own_words: OwnWords

    def likelihood(self, model: transformers.PreTrainedModel) -> dict[str, float]:
        """Loss per word, base 2, on the dense model's own words."""
        words = sum(self.own_words.count(model, batch) for batch in self.batches)
        with torch.no_grad():
            loss = sum(self.own_words.loss(model, batch).item() for batch in self.batches)
        return {"loss": loss / words / math.log(2)}


def audio_calibration(
    model: transformers.PreTrainedModel,
    source: Path,
    audio: Path,
    batches: int,
    seed: int,
    more: int = 0,
    direction: Direction = Direction(),  # noqa: B008
) -> tuple[Calibration, HeldOut]:
    """Batches of up to half a minute of audio, in random order, each in one direction.

    Args:
        source: the model's folder, for its feature extractor.
        audio: a folder or a TSV, see `find_recordings`.
        batches: number of calibration batches; fewer if there is less audio. An additional tenth, at least one, is held out.
        more: number of additional batches for correction and refinement; fewer or none if there is less audio.
        direction: task and languages of the generated words.

    Raises:
        InputError: if there is no audio, too little speech to hold any out, or a file cannot be read; or the model does not have
            the direction.
    """
    kind, own_words, languages = kind_of(model), words_of(model), languages_of(model, source)
    extractor = feature_extractor(source, transformers.SequenceFeatureExtractor)
    recordings = find_recordings(audio, languages, direction)
    rate = extractor.sampling_rate
    random.Random(seed).shuffle(recordings)
    first_batches = batches + max(1, batches // 10)
    windows = list(islice(half_minutes(recordings, rate), first_batches + more))
    if len(windows) < 2:
        seconds = sum(len(piece) for window in windows for piece in window.pieces) / rate
        raise InputError(
            f"{audio} contains {seconds:.0f} s of speech; calibration needs more than {SECONDS:.0f} s, to hold some out"
        )

    def encode(model: transformers.PreTrainedModel, batch: AudioBatch) -> None:
        kind.encode(model, batch.inputs)

    def write(inputs: transformers.BatchFeature, direction: Direction) -> AudioBatch:
        return own_words.write(model, dict(inputs.to(model.device, model.dtype)), **generate_kwargs_of(model, languages, direction))

    made = _of_utterances if extractor.return_attention_mask and not kind.in_windows else _of_windows
    every = list(made(model, extractor, windows, write))
    first, rest = every[:first_batches], every[first_batches:]
    held_out = max(1, len(first) // 11)
    return Calibration(first[:-held_out], own_words.loss, encode, own_words.predict, rest), HeldOut(first[-held_out:], own_words)


def _of_utterances(model: transformers.PreTrainedModel, extractor, windows: list[Window], write: Write) -> Iterator[AudioBatch]:
    """Batches of half a minute of utterances, padded."""
    for window in _shown(windows):
        yield write(_features(extractor, window.pieces, padding=True), window.direction)


def _of_windows(model: transformers.PreTrainedModel, extractor, windows: list[Window], write: Write) -> list[AudioBatch]:
    """Half minutes of concatenated utterances, without padding, which would need a mask."""
    own_words = words_of(model)
    decoded = own_words if isinstance(own_words, DecodedWords) and kind_of(model).in_windows else None
    size = _TRANSCRIBED_TOGETHER if decoded else 1
    made: dict[int, AudioBatch] = {}
    for together in _shown(_parts(range(len(windows)), windows, size)):
        joined = [_joined(windows[index], extractor.sampling_rate) for index in together]
        batch = write(_features(extractor, joined), windows[together[0]].direction)
        made |= zip(together, decoded.apart(model, batch) if decoded else [batch])
    return [made[index] for index in range(len(windows))]


def _parts(order: Iterable[int], windows: list[Window], size: int) -> list[list[int]]:
    """Indices of windows in parts of up to `size`, each part in one direction."""
    of_direction = defaultdict(list)
    for index in order:
        of_direction[windows[index].direction].append(index)
    return [indices[start : start + size] for indices in of_direction.values() for start in range(0, len(indices), size)]


def _joined(window: Window, rate: int) -> np.ndarray:
    """A window's pieces, concatenated with a pause after each."""
    pause = np.zeros(round(PAUSE_SECONDS * rate), np.float32)
    return np.concatenate([part for piece in window.pieces for part in (piece, pause)])[: round(SECONDS * rate)]


def _features(extractor, samples: list[np.ndarray], **options) -> transformers.BatchFeature:
    has_mask = extractor.return_attention_mask  # Whisper's extractor returns a mask of samples instead of frames unless told here
    return extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt", return_attention_mask=has_mask, **options)


_shown = partial(progress, desc="transcribing", unit="batch")
