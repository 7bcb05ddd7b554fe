"""Sentences of a stream from a microphone."""

import importlib.util
from pathlib import Path

import numpy as np
from conftest import ROOT

from residual_st.audio.lengths import Lengths
from residual_st.audio.reading import read_audio

SPEECH = Path(__file__).parents[1] / "speech"


def test_a_sentence_ends_with_a_pause():
    spec = importlib.util.spec_from_file_location("microphone", ROOT / "examples" / "device" / "microphone.py")
    microphone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(microphone)
    rate = 16_000
    one, other = (read_audio(SPEECH / name, rate) for name in ("arctic_a0007.wav", "arctic_a0009.wav"))
    noise = np.random.default_rng(1).normal(0, 1e-3, 9 * rate + len(one) + len(other)).astype(np.float32)
    stream = noise.copy()
    stream[3 * rate : 3 * rate + len(one)] += one
    stream[6 * rate + len(one) : 6 * rate + len(one) + len(other)] += other
    blocks = [stream[start : start + 1600] for start in range(0, len(stream) - 1600, 1600)]
    found = list(microphone.sentences(iter(blocks), rate, Lengths(15.0)))
    assert len(found) == 2
    for samples, spoken in zip(found, (one, other)):
        assert 0.7 * len(spoken) < len(samples) < len(spoken) + 1.5 * rate
