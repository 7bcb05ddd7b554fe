"""Filterbanks in a graph, beside Kaldi's."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import spox
from fairseq.data.audio.feature_transforms.utterance_cmvn import UtteranceCMVN

from residual_st.audio import read_audio
from residual_st.export.features import features
from residual_st.filterbank import filterbank

SPEECH = Path(__file__).parents[1] / "speech"


@pytest.fixture(scope="module")
def session():
    samples = spox.argument(spox.Tensor(np.float32, ("batch", "samples")))
    lengths = spox.argument(spox.Tensor(np.int64, ("batch",)))
    filterbanks, frames = features(samples, lengths)
    graph = spox.build({"samples": samples, "lengths": lengths}, {"features": filterbanks, "frames": frames})
    return onnxruntime.InferenceSession(graph.SerializeToString())


def test_features_of_human_speech_are_kaldis(session):
    recordings = [read_audio(path, 16_000) for path in sorted(SPEECH.glob("*.wav"))]
    recordings.append(recordings[0][:400])  # one frame
    lengths = np.array([len(samples) for samples in recordings])
    padded = np.zeros((len(recordings), lengths.max()), np.float32)
    for row, samples in zip(padded, recordings):
        row[: len(samples)] = samples
    computed, frames = session.run(None, {"samples": padded, "lengths": lengths})
    for row, count, samples in zip(computed, frames, recordings):
        expected = UtteranceCMVN()(filterbank(samples, 16_000))
        assert count == len(expected)
        assert np.abs(row[:count] - expected).max() < 1e-3
        assert not row[count:].any()  # as fairseq pads


def test_silence_has_finite_features(session):
    computed, _ = session.run(None, {"samples": np.zeros((1, 1600), np.float32), "lengths": np.array([1600])})
    assert np.abs(computed).max() < 0.2  # of a variance that is kept from being 0, rounding is a noticeable part
