"""Translating audio from Python: several languages, recordings of any sample rate and length."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from residual_st.errors import InputError
from residual_st.fairseq.s2t_residual_transformer import S2TResidualTransformerModel

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"


def load(folder, data):
    return S2TResidualTransformerModel.from_pretrained(str(folder), "checkpoint_last.pt", str(data), config_yaml="config_st.yaml")


def test_multilingual_model_needs_a_target_language(joint, fairseq_train, tmp_path):
    subsets = {"train_subset": "train_de_st,train_fr_st", "valid_subset": "dev_de_st,dev_fr_st", "config_yaml": "config_st.yaml"}
    fairseq_train(joint, tmp_path, max_update=30, lr=5e-3, ignore_prefix_size=1, **subsets)
    hub = load(tmp_path, joint)
    for language in ("de", "fr"):
        text = hub.predict(SPEECH, language)
        assert text
        assert "<lang:" not in text
    assert hub.predict(SPEECH, tgt_lang="de") == hub.predict(SPEECH, target_lang="de")
    for asked, message in (
        ({}, "target_lang is missing; it must be one of de, fr"),
        ({"target_lang": "it"}, "target_lang=it is not supported by this model; it must be one of de, fr"),
        ({"target_lang": "de", "task": "translate"}, "task=translate: the model has one task"),
        ({"target_lang": "de", "source_lang": "en"}, "source_lang=en: the model has one source language"),
    ):
        with pytest.raises(InputError, match=message):
            hub.predict(SPEECH, **asked)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture
def hub(run_folder, data, fairseq_train):
    if not (run_folder / "checkpoint_last.pt").exists():
        fairseq_train(data, run_folder, max_update=2)
    return load(run_folder, data)


def test_recordings_at_other_rates_give_the_same_features(hub, tmp_path):
    """Features are compared, because the texts of a barely trained model hardly depend on them."""
    samples, rate = soundfile.read(SPEECH, dtype="float32")
    expected = hub.get_model_input(hub.task, SPEECH)["net_input"]["src_tokens"]
    for other_rate in (22_050, 44_100, 48_000):
        resampled = soxr.resample(samples, rate, other_rate, "VHQ")
        soundfile.write(tmp_path / "a.wav", resampled, other_rate, subtype="FLOAT")
        given = hub.get_model_input(hub.task, tmp_path / "a.wav")["net_input"]["src_tokens"]
        assert given.shape == expected.shape
        assert (given - expected)[..., :70].abs().mean() < 0.02  # features have unit variance
        assert isinstance(hub.predict(resampled, sample_rate=other_rate), str)


def test_model_with_one_language_refuses_a_target_language(hub):
    with pytest.raises(InputError, match="target_lang=de: the model has one target language"):
        hub.predict(SPEECH, "de")


def test_model_may_have_another_precision(hub):
    expected = hub.predict(SPEECH)
    assert hub.double().predict(SPEECH) == expected
    assert isinstance(hub.half().predict(SPEECH), str)


def test_long_recording_is_translated_in_pieces(hub):
    samples, rate = soundfile.read(SPEECH, dtype="float32")
    talk = np.concatenate([part for _ in range(20) for part in (samples, np.zeros(rate // 2, np.float32))])
    assert len(talk) > 60 * rate, "longer than the model's maximum"
    pieces = []
    predict_one = hub.get_prediction
    hub.get_prediction = lambda *arguments: pieces.append(predict_one(*arguments)) or pieces[-1]
    assert hub.predict(talk) == " ".join(filter(None, pieces))
    assert len(pieces) == 20


@pytest.mark.parametrize(
    ("audio", "options", "message"),
    [
        (np.zeros(100, np.float32), {}, "shorter than one frame"),
        (SPEECH, {"longest_seconds": 61}, "at most 60"),
        (SPEECH, {"longest_seconds": 0}, "must be at least 1"),
        ("nowhere.wav", {}, "nowhere.wav cannot be read as audio"),
    ],
)
def test_invalid_input_is_refused(hub, audio, options, message):
    with pytest.raises(InputError, match=message):
        hub.predict(audio, **options)
