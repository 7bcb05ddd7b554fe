"""The filterbank graph computes Kaldi's features and fairseq's transforms."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import spox
from fairseq.data.audio.feature_transforms.global_cmvn import GlobalCMVN
from fairseq.data.audio.feature_transforms.utterance_cmvn import UtteranceCMVN

from residual_st.audio.reading import read_audio
from residual_st.export.fairseq_input import filterbank_of
from residual_st.export.features import features
from residual_st.fairseq.model_input import ModelInput

SPEECH = Path(__file__).parents[1] / "speech"


def session(source: ModelInput) -> onnxruntime.InferenceSession:
    samples = spox.argument(spox.Tensor(np.float32, ("batch", "samples")))
    lengths = spox.argument(spox.Tensor(np.int64, ("batch",)))
    frames, counts = features(samples, lengths, filterbank_of(source))
    graph = spox.build({"samples": samples, "lengths": lengths}, {"features": frames, "frames": counts})
    return onnxruntime.InferenceSession(graph.SerializeToString())


@pytest.fixture
def corpus(tmp_path):
    """Corpus statistics in the format of fairseq's `global_cmvn`."""
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "stats.npz", mean=rng.normal(10, 3, 80).astype(np.float32), std=rng.uniform(1, 4, 80))
    return GlobalCMVN(tmp_path / "stats.npz")


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050])
def test_features_of_human_speech_equal_kaldis_at_every_rate(rate):
    check(ModelInput(rate))


@pytest.mark.parametrize("means", [True, False])
@pytest.mark.parametrize("variances", [True, False])
def test_features_are_normalised_as_in_fairseq(means, variances, corpus):
    check(ModelInput(8_000, transforms=(UtteranceCMVN(means, variances),)))
    check(ModelInput(8_000, transforms=(corpus, UtteranceCMVN(means, variances))))
    check(ModelInput(transforms=(UtteranceCMVN(means, variances), corpus)))


def test_other_numbers_of_bins_and_no_transform():
    check(ModelInput(bins=40, transforms=()))


def test_single_frame_has_features():
    check(ModelInput(), shortest=400)


def check(source: ModelInput, shortest: int = 3000) -> None:
    """Compare the graph on a batch of recordings with fairseq's features of each."""
    rng = np.random.default_rng(1)  # these recordings contain nothing above 8 kHz, where log energies would be rounding noise
    recordings = [read_audio(path, source.sample_rate) for path in sorted(SPEECH.glob("*.wav"))]
    recordings = [samples + rng.normal(0, 3e-4, len(samples)).astype(np.float32) for samples in recordings]
    recordings.append(recordings[0][:shortest])
    lengths = np.array([len(samples) for samples in recordings])
    padded = np.zeros((len(recordings), lengths.max()), np.float32)
    for row, samples in zip(padded, recordings):
        row[: len(samples)] = samples
    computed, frames = session(source).run(None, {"samples": padded, "lengths": lengths})
    for row, count, samples in zip(computed, frames, recordings):
        expected = source.features(samples).numpy()
        assert row[:count].shape == expected.shape
        np.testing.assert_allclose(row[:count], expected, rtol=1e-3, atol=3e-3)
        assert not row[count:].any()  # as fairseq pads


def test_silence_has_finite_features():
    computed, _ = session(ModelInput()).run(None, {"samples": np.zeros((1, 1600), np.float32), "lengths": np.array([1600])})
    assert np.abs(computed).max() < 0.2  # rounding noise is large relative to the clamped variance
