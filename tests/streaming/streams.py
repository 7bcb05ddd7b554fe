"""Test sounds, and invariants of every stream."""

from pathlib import Path

import numpy as np

from residual_st.audio.reading import read_audio

RATE = 16_000
SPEECH = [read_audio(Path(__file__).parents[1] / "speech" / name, RATE) for name in ("arctic_a0007.wav", "arctic_a0009.wav")]


def quiet(seconds: float, level: float = 1e-4, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, round(seconds * RATE)).astype(np.float32)


def talk(pause: float = 0.6) -> np.ndarray:
    """Two sentences with pauses before, between and after them."""
    return np.concatenate([quiet(0.7), SPEECH[0], quiet(pause), SPEECH[1], quiet(1.4)])


def without_pauses(seconds: float) -> np.ndarray:
    """Endless syllables: repetitions of half a second of a vowel."""
    vowel = SPEECH[0][round(0.9 * RATE) : round(1.4 * RATE)]
    return np.tile(vowel, round(2 * seconds))


def updates_of(stream, samples: np.ndarray, size: int = 1600, rate: int | None = None) -> list:
    """All updates for samples that are fed in pieces of this size."""
    updates = [update for start in range(0, len(samples), size) for update in stream.feed(samples[start : start + size], rate)]
    return [*updates, stream.finish()]


def segments_of(updates: list) -> list:
    return [segment for update in updates for segment in update.closed]


def assert_texts_only_grow(updates: list) -> None:
    closed, before, seconds = [], "", 0.0
    for update in updates:
        closed += [segment.text for segment in update.closed]
        committed = " ".join(filter(None, [*closed, update.text]))
        assert committed.startswith(before)
        assert "\ufffd" not in committed[len(committed.rstrip("\ufffd")) :] or not update.text
        assert update.seconds >= seconds
        before, seconds = committed, update.seconds
    ends = [(segment.start, segment.end) for segment in segments_of(updates)]
    assert all(start < end for start, end in ends)
    assert all(one[1] <= other[0] for one, other in zip(ends, ends[1:]))
