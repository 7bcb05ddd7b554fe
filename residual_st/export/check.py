"""Comparison of an exported folder with its source model, on real audio."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from residual_st.audio.lengths import Lengths
from residual_st.audio.pauses import split_at_pauses
from residual_st.audio.reading import read_audio
from residual_st.errors import InputError
from residual_st.languages import AUTO, Direction
from residual_st.runtime.decoding import Source
from residual_st.runtime.model import Model
from residual_st.runtime.search import Search, in_source_language
from residual_st.runtime.settings import Settings

LARGEST = 1e-2  # largest difference explained by fp32 rounding, for states that a norm has scaled to a variance near 1
UTTERANCES, WORDS = 8, 20
_SECONDS = 8.0


@dataclass
class Differences:
    """The largest differences between a folder and its source model.

    Attributes:
        states: of encoder states.
        log_probs: of log-probabilities of words, along the model's greedy text.
        seconds_of_audio: length of the audio compared.
    """

    states: float
    log_probs: float
    seconds_of_audio: float


class Greedy(NamedTuple):
    """Greedy output of the model's own library: prompt, words and their text."""

    prompt: list[int]
    words: list[int]
    text: str


class Reference(Protocol):
    """The source model that a folder is compared with."""

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """States of one utterance (1, time, width)."""

    def log_probs(self, tokens: list[int]) -> np.ndarray:
        """Log-probabilities of the next word after `tokens` in that utterance (vocabulary,)."""

    def greedy(self, direction: Direction, most: int) -> Greedy | None:
        """Up to `most` words of that utterance, in a fully known direction; None if there is nothing to compare."""


@torch.no_grad()
def check_against(reference: Reference, audio: Sequence[Path], folder: Path) -> Differences:
    """Compare a folder with its source model, one utterance at a time.

    Raises:
        InputError: if audio cannot be read, or a graph in fp32 has different results or writes different words.
    """
    exported = Model(folder)
    states = log_probs = seconds = 0.0
    rate, streaming, longest = exported.folder.sample_rate, exported.folder.streaming, exported.folder.longest_seconds
    longest = min(_SECONDS, longest)
    if streaming:  # which resets its positions after this length
        longest = min(longest, streaming.longest_frames * streaming.frame_samples / rate)
    for samples in utterances(audio, rate, longest):
        seconds += len(samples) / rate
        states = max(states, float(np.abs(exported.encode([samples])["states"] - reference.encode(samples)).max()))
        source = exported.decoder_source([samples])
        direction = _direction(exported, source)
        log_probs = max(log_probs, _log_prob_difference(reference, exported, source, direction))
        _check_words(reference, exported, source, direction)
    if exported.folder.description["precision"] == "fp32" and not max(states, log_probs) <= LARGEST:
        raise InputError(f"the graphs differ from the model: states by {states:.2g}, log-probabilities by {log_probs:.2g}")
    return Differences(states, log_probs, round(seconds, 1))


def _log_prob_difference(reference: Reference, exported: Model, source: Source, direction: Direction) -> float:
    vocabulary, difference = exported.vocabulary, 0.0
    (start, *forced), begin = vocabulary.opening(exported.languages.words(direction))
    forced += begin
    tokens, steps = [start], source.decoding(beam=1)
    for _ in range(WORDS):
        expected = reference.log_probs(tokens)
        log_probs = steps.step(np.array([tokens[-1:]]), np.arange(1))[0, 0]
        difference = max(difference, float(np.abs(log_probs - expected).max()))
        tokens.append(forced.pop(0) if forced else int(expected.argmax()))
        if tokens[-1] == vocabulary.eos:
            break
    return difference


def _direction(exported: Model, source: Source) -> Direction:
    """The direction for the check: the folder's default, or else into the first of its languages."""
    languages = exported.languages
    is_open = languages.targets and not languages.tasks and languages.default.target_lang is None
    direction = languages.resolved(Direction(target_lang=next(iter(languages.targets))) if is_open else Direction())
    return in_source_language(source, exported.folder, direction) if direction.source_lang == AUTO else direction


def _check_words(reference: Reference, exported: Model, source: Source, direction: Direction) -> None:
    """Raise InputError if the folder's prompt, choice of words or joined text differs from the model's own library."""
    greedy, description = reference.greedy(direction, WORDS), exported.folder.description
    if greedy is None:
        return
    prompt, begin = exported.vocabulary.opening(exported.languages.words(direction))
    if greedy.prompt != prompt + begin:
        raise InputError(f"the folder's prompt {prompt + begin} differs from the model's {greedy.prompt}")
    if exported.vocabulary.text(greedy.words) != greedy.text.strip(" "):
        raise InputError(f"the folder's text {exported.vocabulary.text(greedy.words)!r} differs from the model's {greedy.text!r}")
    settings = Settings(beam=1, nbest=1, max_len_a=0, max_len_b=WORDS)
    ((best,),) = Search(exported.folder, settings, direction).best(source)
    eos = exported.vocabulary.eos
    expected, exported_words = ([*words, eos][: WORDS + 1] for words in (greedy.words, best.tokens))
    place = next((place for place, pair in enumerate(zip(expected, exported_words)) if pair[0] != pair[1]), None)
    if place is None or description["precision"] != "fp32" or description.get("not_followed"):
        return
    log_probs = reference.log_probs(greedy.prompt + expected[:place])
    if log_probs[expected[place]] - log_probs[exported_words[place]] > LARGEST:
        raise InputError(f"the folder's words {exported_words} differ from the model's {expected}")


def utterances(audio: Sequence[Path], rate: int, longest: float = _SECONDS) -> list[np.ndarray]:
    """Up to eight utterances of at most `longest` seconds each; a synthetic sound if there are no files."""
    if not audio:
        return [_sweep(rate)[: int(longest * rate)]]
    pieces = []
    for path in audio:
        samples = read_audio(path, rate)
        pieces += [piece for piece in split_at_pauses(samples, rate, Lengths(longest)) if len(piece) > rate // 2]
        if len(pieces) >= UTTERANCES:
            break
    if not pieces:
        raise InputError(f"{audio[0]} is too short for the check; give at least half a second of speech")
    return pieces[:UTTERANCES]


def _sweep(rate: int) -> np.ndarray:
    """Three seconds of a synthetic voice: 24 harmonics with varying pitch, in noise."""
    time = np.arange(3 * rate) / rate
    phase = 2 * np.pi * np.cumsum(140 + 60 * np.sin(2 * np.pi * 0.7 * time)) / rate
    tone = sum(np.sin(number * phase) / number for number in range(1, 25)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    return (0.1 * tone + 0.005 * np.random.default_rng(1).standard_normal(len(time))).astype(np.float32)
