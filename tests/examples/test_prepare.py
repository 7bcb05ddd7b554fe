import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import soundfile
import soxr
import torch
import yaml
from conftest import RECIPE, linked, run_recipe
from fairseq.data.audio.audio_utils import get_features_or_waveform
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.tasks.speech_to_text import SpeechToTextTask

SPLITS = ["train", "dev", "tst-COMMON", "tst-HE"]


def manifest(root, name):
    with open(root / f"{name}.tsv", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def prepare(root, *flags, task="st", size=150, check=True):
    return run_recipe("prepare.py", "-d", root, "--languages", "de", "--task", task, "--vocab-size", size, *flags, check=check)


@pytest.fixture
def small(release, tmp_path):
    """A copy of the release that tests may damage."""
    root = tmp_path / "mustc"
    shutil.copytree(release / "en-de" / "data", root / "en-de" / "data")
    return root


def test_fairseq_reads_features_at_their_byte_offsets(data):
    for split in SPLITS:
        for row in manifest(data, f"{split}_st"):
            features = get_features_or_waveform(row["audio"])
            assert features.shape == (int(row["n_frames"]), 80)
            assert features.dtype == np.float32
    with zipfile.ZipFile(data / "fbank80.zip") as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_manifests_follow_the_release(data):
    segments = yaml.safe_load((data / "data/dev/txt/dev.yaml").read_text())
    for task, language in (("st", "de"), ("asr", "en")):
        rows = manifest(data, f"dev_{task}")
        assert list(rows[0]) == ["id", "audio", "n_frames", "tgt_text", "speaker"]
        texts = (data / f"data/dev/txt/dev.{language}").read_text().splitlines()
        assert sorted(row["tgt_text"] for row in rows) == sorted(texts)
        assert {row["speaker"] for row in rows} == {segment["speaker_id"] for segment in segments}
        by_text = dict(zip(texts, segments))
        for row in rows:
            assert int(row["n_frames"]) == pytest.approx(by_text[row["tgt_text"]]["duration"] * 100, abs=3)


def test_config_and_vocabulary_are_read_by_fairseq(data):
    config = S2TDataConfig(data / "config_st.yaml")
    assert config.config["transforms"] == {"*": ["utterance_cmvn"], "_train": ["utterance_cmvn", "specaugment"]}
    words = (data / config.vocab_filename).read_text().splitlines()
    assert len(words) == 150 - 4
    assert all(word.endswith(" 1") for word in words)


def test_features_are_normalised_by_the_training_set_or_not_at_all(data, tmp_path):
    root = tmp_path / "mustc"
    root.mkdir()
    linked(data, root / "en-de", "config_st.yaml")
    prepare(root, "--cmvn", "global", "--specaugment", "none")
    flags = {"config_yaml": "config_st.yaml", "seed": 1, "train_subset": "train_st"}
    task = SpeechToTextTask.setup_task(Namespace(data=str(root / "en-de"), **flags))
    task.load_dataset("train_st")
    dataset = task.datasets["train_st"]
    frames = torch.cat([dataset[index].source for index in range(len(dataset))])
    torch.testing.assert_close(frames.mean(0), torch.zeros(80), rtol=0, atol=1e-4)
    torch.testing.assert_close(frames.std(0), torch.ones(80), rtol=0, atol=1e-3)
    prepare(root, "--cmvn", "none")
    config = S2TDataConfig(root / "en-de" / "config_st.yaml").config
    assert config["transforms"] == {"*": [], "_train": ["specaugment"]} and "global_cmvn" not in config


def test_quotes_are_kept(small):
    text = small / "en-de/data/train/txt/train.de"
    lines = text.read_text().splitlines()
    text.write_text("\n".join(['Er sagte: "Ja\tdoch".', *lines[1:]]) + "\n")
    prepare(small)
    assert 'Er sagte: "Ja doch".' in {row["tgt_text"] for row in manifest(small / "en-de", "train_st")}


def test_length_filters_are_applied_and_counted(small):
    txt = small / "en-de/data/train/txt"
    lines = (txt / "train.de").read_text().splitlines()
    (txt / "train.de").write_text("\n".join(["", *lines[1:]]) + "\n")
    segments = yaml.safe_load((txt / "train.yaml").read_text())
    segments[1]["duration"] = 0.05
    recording = small / "en-de/data/train/wav" / segments[2]["wav"]
    samples, rate = soundfile.read(recording)
    soundfile.write(recording, np.concatenate([samples, np.zeros(31 * rate)]), rate, subtype="PCM_16")
    segments[2]["duration"] = 31.0
    (txt / "train.yaml").write_text("".join(f"- {yaml.safe_dump(s, default_flow_style=True, width=1000)}" for s in segments))
    result = prepare(small)
    for reason in ("empty sentence: 1", "short speech (<5 frames): 1", "long speech (>3000 frames): 1"):
        assert reason in result.stdout
    assert len(manifest(small / "en-de", "train_st")) == len(segments) - 3


def damage(root, kind):
    data = root / "en-de" / "data" / "train"
    wav = sorted((data / "wav").iterdir())[0]
    if kind == "missing":
        wav.unlink()
    elif kind == "not audio":
        wav.write_text("not a recording")
    elif kind == "truncated":
        wav.write_bytes(wav.read_bytes()[: wav.stat().st_size // 2])
    elif kind == "past the end":
        segments = yaml.safe_load((data / "txt/train.yaml").read_text())
        segments[3]["offset"] = 1e6
        (data / "txt/train.yaml").write_text(yaml.safe_dump(segments))
    elif kind == "not a number":
        path = data / "txt/train.yaml"
        path.write_text(path.read_text().replace("duration: ", "duration: x", 1))
    return wav


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "is missing: 4 segments"),
        ("not audio", "cannot be read as audio"),
        ("truncated", "but the recording has"),
        ("past the end", "but the recording has"),
        ("not a number", "is not a number"),
    ],
)
def test_invalid_audio_is_named_and_refused_or_skipped(small, kind, message):
    wav = damage(small, kind)
    before = sorted(path.name for path in (small / "en-de").iterdir())
    refused = prepare(small, check=False)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert re.search(r"\d+ segments cannot be used; .*--skip-bad", refused.stderr.splitlines()[-1])
    assert sorted(path.name for path in (small / "en-de").iterdir()) == before
    skipped = prepare(small, "--skip-bad")
    assert "skipped" in skipped.stdout
    kept = manifest(small / "en-de", "train_st")
    assert 0 < len(kept) < 124
    if kind in ("missing", "not audio"):
        assert not any(row["id"].startswith(f"{wav.stem}_") for row in kept)


def test_recordings_at_other_rates_have_the_same_filterbanks(small, data):
    """One talk at 44.1 kHz and one in stereo at 48 kHz, among talks at 16 kHz."""
    wavs = sorted((small / "en-de/data/train/wav").iterdir())[:2]
    for wav, rate, channels in zip(wavs, (44_100, 48_000), (1, 2)):
        samples, original = soundfile.read(wav)
        faster = soxr.resample(samples, original, rate, "VHQ")
        soundfile.write(wav, np.stack([faster] * channels, axis=1), rate, subtype="PCM_16")
    prepare(small)
    assert S2TDataConfig(small / "en-de" / "config_st.yaml").config["sample_rate"] == 16_000
    stems = {wav.stem for wav in wavs}
    original = {row["id"]: row for row in manifest(data, "train_st")}
    compared = 0
    for row in manifest(small / "en-de", "train_st"):
        actual, expected = (get_features_or_waveform(each["audio"]) for each in (row, original[row["id"]]))
        if row["id"].rpartition("_")[0] not in stems:
            np.testing.assert_array_equal(actual, expected)
            continue
        compared += 1
        length = min(len(actual), len(expected))
        loud = expected[:length, :70] > np.median(expected)
        assert np.abs(actual[:length, :70] - expected[:length, :70])[loud].mean() < 0.05
    assert compared > 4


def test_byte_order_mark_is_ignored(small, data):
    for name in ("train.de", "train.en", "train.yaml"):
        path = small / "en-de/data/train/txt" / name
        path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    prepare(small)
    texts = [[row["tgt_text"] for row in manifest(root, "train_st")] for root in (small / "en-de", data)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("txt/train.de", "eine Zeile\n", "train.de ends before line 2"),
        ("txt/train.yaml", "- {wav: a.wav, offset: 1, speaker_id: s}\n", "line 1: no `duration`"),
        ("txt/train.yaml", "- {wav: [", "is not the yaml of a MuST-C split"),
        ("txt/train.en", None, "train.en is missing"),
    ],
)
def test_inconsistent_files_are_refused(small, path, content, message):
    path = small / "en-de/data/train" / path
    path.unlink() if content is None else path.write_text(content)
    result = prepare(small, "--skip-bad", check=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list((small / "en-de").glob("*.tsv"))


def test_recording_in_two_splits_is_refused(small):
    """Utterances are named after their recording, so the two would share features."""
    data = small / "en-de" / "data"
    wav = next((data / "dev" / "wav").iterdir())
    shutil.copy(wav, data / "tst-HE" / "wav")
    for name in ("yaml", "en", "de"):
        shutil.copy(data / "dev" / "txt" / f"dev.{name}", data / "tst-HE" / "txt" / f"tst-HE.{name}")
    result = prepare(small, check=False)
    assert result.returncode == 2
    assert f"{wav.name} is in dev and in tst-HE" in result.stderr


def test_vocabulary_size_that_is_too_large_is_refused(small):
    result = prepare(small, size=8000, check=False)
    assert result.returncode == 2
    assert "cannot train a unigram vocabulary of size 8000: Vocabulary size too high (8000)" in result.stderr
    assert not list((small / "en-de").glob("*.tsv"))


def test_zip_without_filterbanks_is_refused(small):
    archive = small / "en-de" / "fbank80.zip"
    for content in (b"no zip", (small / "en-de/data/dev/txt/dev.de").read_bytes()):
        archive.write_bytes(content)
        result = prepare(small, check=False)
        assert result.returncode == 2
        assert "fbank80.zip is not an uncompressed zip of filterbanks" in result.stderr


def killed_at(size, partial, root) -> bool:
    """Start a preparation and kill it with its workers once its zip reaches a size. Returns False if it finished before."""
    command = [sys.executable, RECIPE / "prepare.py", "-d", root, "--languages", "de", "--task", "st", "--vocab-size", "150"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        if partial.exists() and partial.stat().st_size > size:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)  # between two checks of the size
    return False


def test_resumes_after_being_killed(release, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(release / "en-de" / "data", whole / "en-de" / "data")
    prepare(whole)
    for attempt in range(5):  # the preparation may finish before the kill
        killed = tmp_path / f"killed{attempt}"
        shutil.copytree(release / "en-de" / "data", killed / "en-de" / "data")
        partial = killed / "en-de" / "fbank80.zip.partial"
        if killed_at(1e6, partial, killed):
            break
    assert not (killed / "en-de" / "fbank80.zip").exists()
    assert not list((killed / "en-de").glob("*.tsv"))
    with open(partial, "ab") as file:
        file.write(b"PK\x03\x04 half an entry")
    prepare(killed)
    assert (killed / "en-de" / "fbank80.zip").read_bytes() == (whole / "en-de" / "fbank80.zip").read_bytes()
    for split in SPLITS:
        actual, expected = (manifest(root / "en-de", f"{split}_st") for root in (killed, whole))
        assert [{**row, "audio": row["audio"].rpartition("/")[2]} for row in actual] == [
            {**row, "audio": row["audio"].rpartition("/")[2]} for row in expected
        ]


def test_joint_languages(release, tmp_path):
    root = tmp_path / "mustc"
    for language in ("de", "nl"):
        shutil.copytree(release / "en-de" / "data", root / f"en-{language}" / "data")
        for path in (root / f"en-{language}" / "data").glob("*/txt/*.de"):
            path.rename(path.with_suffix(f".{language}"))
    flags = ["-d", root, "--languages", "de", "nl", "--task", "st", "--vocab-size", "150"]
    result = run_recipe("prepare.py", *flags, "--joint", check=False)
    assert result.returncode == 2
    assert "en-de/train_st.tsv is missing" in result.stderr
    run_recipe("prepare.py", *flags)
    run_recipe("prepare.py", *flags, "--joint")
    config = S2TDataConfig(root / "config_st.yaml")
    assert config.prepend_tgt_lang_tag
    assert config.config["specaugment"]["freq_mask_N"] == 2
    words = (root / config.vocab_filename).read_text()
    assert "<lang:de> 1" in words
    assert "<lang:nl> 1" in words
    assert {row["tgt_lang"] for row in manifest(root, "train_nl_st")} == {"nl"}
    from types import SimpleNamespace

    from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDatasetCreator
    from fairseq.tasks.speech_to_text import SpeechToTextTask

    task = SpeechToTextTask.setup_task(SimpleNamespace(data=str(root), config_yaml="config_st.yaml", seed=1, train_subset="train"))
    task.load_dataset("train_de_st,train_nl_st")
    first = task.datasets["train_de_st,train_nl_st"][0].target[0]
    assert task.target_dictionary[first] == "<lang:de>"
    assert SpeechToTextDatasetCreator.KEY_TGT_LANG == "tgt_lang"
