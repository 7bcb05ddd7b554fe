"""Synthetic voices and rooms for the demo corpus: espeak-ng through ctypes, then noise and reverberation."""

import ctypes
import itertools
from functools import cache
from random import Random
from typing import NamedTuple

import espeakng_loader
import numpy as np
from scipy.fft import next_fast_len
from scipy.signal import oaconvolve, resample_poly

SAMPLE_RATE = 16_000  # Hz, as MuST-C
_RETRIEVAL = 1  # espeak_AUDIO_OUTPUT: hand the samples to a callback
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_UTF8 = 1

ACCENTS = ["en-us", "en", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-029"]
# A variant (a vocal tract) belongs to one split only, so that no test voice occurs in training.
VARIANTS = {
    "train": (
        "m1 m2 m3 m4 m5 f1 f2 f3 Andy Gene Lee Mario Michael adam antonio belinda benjamin david ed edward john linda max paul "
        "robert steph travis victor"
    ).split(),
    "dev": "m7 f5 Denis".split(),
    "tst-COMMON": "m6 f4 Alex Annie Hugo caleb".split(),
    "tst-HE": "m8 Jacky norbert".split(),
}


class Voice(NamedTuple):
    """One speaker's voice. Rate in words per minute, pitch in espeak's 0-99; None for no noise or no echo."""

    name: str
    rate: int
    pitch: int
    snr_db: float | None = None  # speech to pink noise
    reverberation_s: float | None = None  # time in which an echo decays by 60 dB


def draw_voice(rng: Random, split: str, hard: bool) -> Voice:
    accent, variant = rng.choice(list(itertools.product(ACCENTS, VARIANTS[split])))
    name = f"{accent}+{variant}"
    if not hard:
        return Voice(name, rate=rng.randint(150, 190), pitch=rng.randint(40, 60))
    return Voice(
        name,
        rate=rng.randint(130, 260),
        pitch=rng.randint(15, 85),
        snr_db=rng.uniform(5, 20),
        reverberation_s=rng.uniform(0.1, 0.5),
    )


@cache
def _espeak():
    """The library, its sampling rate and the list that its callback appends sample blocks to."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    blocks = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples, count, _events):
        if count > 0:
            blocks.append(ctypes.string_at(samples, 2 * count))
        return 0

    sample_rate = library.espeak_Initialize(_RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), 0)
    if sample_rate <= 0:
        raise RuntimeError("espeak-ng did not start: the espeakng-loader package is incomplete")
    library.espeak_ng_SetRandSeed(1)  # some voices add random breaths, seeded by the clock by default
    library.espeak_SetSynthCallback(collect)
    library.keep_alive = collect  # ctypes keeps no reference to callbacks
    return library, sample_rate, blocks


def speak(text: str, voice: Voice) -> np.ndarray:
    """Synthesise clean speech: float32 samples in [-1, 1] at 16 kHz.

    espeak-ng keeps state between calls, so output is reproducible only if a process makes the same calls in the same order; the
    corpus uses a new process for every talk.
    """
    library, sample_rate, blocks = _espeak()
    blocks.clear()
    if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice.name!r}")
    library.espeak_SetParameter(_RATE, voice.rate, 0)
    library.espeak_SetParameter(_PITCH, voice.pitch, 0)
    data = text.encode() + b"\0"
    library.espeak_Synth(data, len(data), 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    samples = np.frombuffer(b"".join(blocks), np.int16).astype(np.float64) / 2**15
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    samples = samples[loud[0] : loud[-1] + 1]
    common = np.gcd(SAMPLE_RATE, sample_rate)
    return resample_poly(samples, SAMPLE_RATE // common, sample_rate // common).astype(np.float32)


def record_in_room(speech: np.ndarray, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Normalise the level of speech, then add the voice's echo and pink noise. Same length and type as `speech`."""
    speech = 0.08 * speech / max(np.sqrt(np.mean(speech**2)), 1e-6)
    if voice.reverberation_s is not None:
        speech = _reverberate(speech, voice.reverberation_s, rng)
    if voice.snr_db is not None:
        noise = _pink_noise(len(speech), rng)
        speech = speech + noise * np.sqrt(np.mean(speech**2) / 10 ** (voice.snr_db / 10))
    return (speech / max(1.0, np.abs(speech).max() / 0.99)).astype(np.float32)


def _reverberate(speech: np.ndarray, decay_s: float, rng: np.random.Generator) -> np.ndarray:
    """Convolve with exponentially decaying noise, the usual model of a diffuse room, at equal energy of direct sound and echo."""
    time = np.arange(int(decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    echo = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay_s)
    echo /= np.sqrt(np.sum(echo**2))
    echo[0] = 1.0
    return oaconvolve(speech, echo)[: len(speech)]


def _pink_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit power whose spectrum falls as 1/f."""
    spectrum = np.fft.rfft(rng.standard_normal(next_fast_len(length)))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum)[:length]
    return noise / np.sqrt(np.mean(noise**2))
