"""The recipe on human recordings (tests/speech, CMU ARCTIC): release, filterbanks, training, translation."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from conftest import run_recipe
from fairseq.data.audio.audio_utils import get_features_or_waveform

from residual_st.audio.filterbank import filterbank
from residual_st.audio.lengths import DEFAULT
from residual_st.audio.pauses import spans_between_pauses
from residual_st.fairseq.s2t_residual_transformer import S2TResidualTransformerModel

SPEECH = Path(__file__).parent.parent / "speech"
SENTENCES = [
    (
        "arctic_a0007.wav",
        "And you always want to see it in the superlative degree.",
        "Und man will es immer im Superlativ sehen.",
    ),
    (
        "arctic_a0009.wav",
        "He turned sharply, and faced Gregson across the table.",
        "Er drehte sich jäh um und sah Gregson über den Tisch hinweg an.",
    ),
]
PAUSE = 0.4  # seconds


def spoken(name: str) -> tuple[np.ndarray, int, int, int]:
    """The samples and rate of a recording, and the start and end of its speech, where segments of a release end, too."""
    samples, rate = soundfile.read(SPEECH / name, dtype="float32")
    ((start, end),) = spans_between_pauses(samples, rate, DEFAULT)
    return samples, rate, start, end


@pytest.fixture(scope="module")
def human(tmp_path_factory) -> Path:
    """A prepared release in which each split is one talk of both sentences."""
    root = tmp_path_factory.mktemp("human")
    for split in ("train", "dev", "tst-COMMON", "tst-HE"):
        wav, pieces, segments, position = f"ted_{split}.wav", [], [], 0.0
        for name, _, _ in SENTENCES:
            samples, rate, start, end = spoken(name)
            pieces += [np.zeros(round(PAUSE * rate), np.float32), samples]
            offset = position + PAUSE + start / rate
            segment = {"duration": (end - start) / rate, "offset": offset, "speaker_id": "spk.1", "wav": wav}
            segments.append(segment)
            position += PAUSE + len(samples) / rate
        folder = root / "en-de" / "data" / split
        (folder / "wav").mkdir(parents=True)
        (folder / "txt").mkdir()
        soundfile.write(folder / "wav" / wav, np.concatenate(pieces), rate)
        (folder / "txt" / f"{split}.yaml").write_text(yaml.safe_dump(segments))
        (folder / "txt" / f"{split}.en").write_text("".join(english + "\n" for _, english, _ in SENTENCES))
        (folder / "txt" / f"{split}.de").write_text("".join(german + "\n" for _, _, german in SENTENCES))
    run_recipe("prepare.py", "-d", root, "--languages", "de", "--task", "st", "--vocab-size", 40, "--specaugment", "none")
    config = root / "en-de" / "config_st.yaml"
    config.rename(config.with_stem("config_st_plain"))
    return root / "en-de"


def test_segments_of_a_talk_have_the_filterbanks_of_the_recordings(human):
    with open(human / "train_st.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [row["tgt_text"] for row in rows] == [german for _, _, german in SENTENCES]
    for row, (name, _, _) in zip(rows, SENTENCES):
        samples, rate, start, end = spoken(name)
        samples = samples[start:end]
        features = get_features_or_waveform(row["audio"])
        assert len(features) == int(row["n_frames"]) == pytest.approx(100 * len(samples) / rate, abs=3)
        np.testing.assert_allclose(features, filterbank(samples, rate), atol=1e-3)
        # a voice: vowels are louder below 1 kHz than the room between words, which is not digital silence
        loudness = features[:, :25].mean(1)
        assert np.percentile(loudness, 90) - np.percentile(loudness, 5) > 3
        assert np.isfinite(features).all()


def test_model_trained_on_human_speech_translates_recordings(human, fairseq_train, tmp_path):
    rarely = {"save_interval": 1000, "validate_interval": 1000}  # an epoch is one batch
    losses = fairseq_train(human, tmp_path, max_update=600, lr=3e-3, dropout=0, required_batch_size_multiple=1, **rarely)
    assert losses[-1] < 0.5 * losses[0]
    hub = S2TResidualTransformerModel.from_pretrained(
        str(tmp_path), "checkpoint_last.pt", str(human), config_yaml="config_st_plain.yaml"
    )
    for name, _, german in SENTENCES:
        assert hub.predict(str(SPEECH / name)) == german
