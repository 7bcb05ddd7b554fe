import hashlib

import pytest
import soundfile
import yaml
from conftest import run_recipe

SPLITS = ["train", "dev", "tst-COMMON", "tst-HE"]


def read(root, split):
    txt = root / "en-de" / "data" / split / "txt"
    segments = yaml.safe_load((txt / f"{split}.yaml").read_text())
    return segments, (txt / f"{split}.en").read_text().splitlines(), (txt / f"{split}.de").read_text().splitlines()


def digest(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_corpus_has_the_layout_of_must_c(release):
    for split in SPLITS:
        segments, english, german = read(release, split)
        assert len(segments) == len(english) == len(german) > 0
        for segment in segments:
            info = soundfile.info(release / "en-de" / "data" / split / "wav" / segment["wav"])
            assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
            assert 0 < segment["offset"] < segment["offset"] + segment["duration"] < info.duration


def test_test_sets_share_no_sentence_or_speaker_with_train(release):
    seen_sentences, seen_speakers = set(), set()
    for split in SPLITS:
        segments, english, german = read(release, split)
        speakers = {segment["speaker_id"] for segment in segments}
        assert not seen_sentences & {*english, *german}
        assert not seen_speakers & speakers
        seen_sentences |= {*english, *german}
        seen_speakers |= speakers


def test_test_voices_do_not_occur_in_training(monkeypatch):
    from conftest import RECIPE

    monkeypatch.syspath_prepend(RECIPE)
    import demo_speech

    variants = [variant for split in SPLITS for variant in demo_speech.VARIANTS[split]]
    assert len(variants) == len(set(variants)) >= 30


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_corpus_is_byte_identical_for_any_number_of_processes(tmp_path, difficulty):
    for name, workers in (("a", 1), ("b", 2)):
        flags = ["--hours", "0.02", "--difficulty", difficulty, "--seed", "7", "--workers", workers]
        run_recipe("make_demo_corpus.py", "--output", tmp_path / name, *flags)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "full"], "full/en-de already exists"),
        (["--output", "new", "--hours", "-1"], "--hours -1.0 must be above 0"),
        (["--output", "new", "--workers", "0"], "--workers 0"),
        (["--output", "new", "--difficulty", "harder"], "invalid choice"),
    ],
)
def test_wrong_usage_is_refused(tmp_path, flags, message):
    (tmp_path / "full" / "en-de").mkdir(parents=True)
    result = run_recipe("make_demo_corpus.py", *flags, check=False, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["full", "full/en-de"]
