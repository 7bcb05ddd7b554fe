"""Faulty manifests: lengths in wrong units, incomplete rows."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import cli, linked

from residual_st.errors import InputError
from residual_st.evaluation import ctc
from residual_st.fairseq.manifest import check_manifest, read_manifest

FEATURES = SimpleNamespace(audio_root="", use_audio_input=False, use_sample_rate=16_000)
SAMPLES = SimpleNamespace(audio_root="", use_audio_input=True, use_sample_rate=16_000)


@pytest.fixture
def sources(tmp_path) -> list[str]:
    """The same 1.5 s of audio in each format that fairseq reads."""
    soundfile.write(tmp_path / "a.wav", np.zeros(12_000), 8_000)
    np.save(tmp_path / "a.npy", np.zeros((148, 80), np.float32))
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_STORED) as file:
        for name in ("a.wav", "a.npy"):
            file.write(tmp_path / name, name)
    stored = (tmp_path / "all.zip").read_bytes()
    sizes = [(stored.index((tmp_path / name).read_bytes()), (tmp_path / name).stat().st_size) for name in ("a.wav", "a.npy")]
    return [str(tmp_path / "a.wav"), str(tmp_path / "a.npy"), *(f"{tmp_path}/all.zip:{start}:{size}" for start, size in sizes)]


def written(path, *rows):
    path.write_text("id\taudio\tn_frames\ttgt_text\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def test_lengths_must_match_the_audio(sources, tmp_path):
    for source in sources:
        assert check_manifest(written(tmp_path / "a.tsv", ("u1", source, 148, "ein Satz")), FEATURES) == [148]
        for wrong in (24_000, 1):  # in samples, in seconds
            with pytest.raises(
                InputError, match=rf"n_frames of u2 \(row 2\) is {wrong}, but must be 1(48|50); its unit is frames of 10"
            ):
                check_manifest(written(tmp_path / "a.tsv", ("u1", source, 148, "x"), ("u2", source, wrong, "x")), FEATURES)
    assert check_manifest(written(tmp_path / "a.tsv", ("u1", sources[0], 24_000, "x")), SAMPLES) == [24_000]
    with pytest.raises(InputError, match="is 150, but must be 24000; its unit is samples"):
        check_manifest(written(tmp_path / "a.tsv", ("u1", sources[0], 150, "x")), SAMPLES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\taudio\tn_frames\ttgt_text\nu1\ta.wav\t100\tx\nu2\ta.wa", "line 3, has 2 fields, but the header has 4"),
        ("id\taudio\tn_frames\ttgt_text\nu1\ta.wav\t100\tone\ttwo\n", "line 2, has 5 fields, but the header has 4"),
        ("id\taudio\tn_frames\ttgt_text\nu1\ta.wav\t1.48\tx\n", "line 2: n_frames must be a whole number above 0, not '1.48'"),
        ("id\taudio\tn_frames\ttgt_text\nu1\ta.wav\t0\tx\n", "must be a whole number above 0, not '0'"),
        ("id\taudio\tn_frames\ttgt_text\n", "lists no utterance"),
        ("", "has no column `id`"),
    ],
)
def test_incomplete_rows_are_refused(tmp_path, text, message):
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / "a.tsv")


def test_unicode_line_separators_do_not_split_rows(tmp_path):
    assert (
        read_manifest(written(tmp_path / "a.tsv", ("u1", "a.wav", 1, "a\u2028b\x85c\x0bd")))[0]["tgt_text"] == "a\u2028b\x85c\x0bd"
    )


def test_skipped_sentences_are_reported(data, fairseq_train, monkeypatch, tmp_path):
    """Sentences that are too long for the model are counted, and an empty remainder is refused."""
    fairseq_train(data, tmp_path / "run", max_update=1, max_source_positions=250, skip_invalid_size_inputs_valid_test=True)
    checkpoint = tmp_path / "run" / "checkpoint_last.pt"
    monkeypatch.setattr("sys.argv", ["ctc", *map(str, (checkpoint, data, "dev_st", tmp_path / "ctc.txt"))])
    with pytest.raises(InputError, match="that are too long for the model, so a score would be incomplete"):
        ctc.main()
    assert not (tmp_path / "ctc.txt").exists()
    header, *rows = (data / "dev_st.tsv").read_text().split("\n")[:-1]
    lengths = [int(row.split("\t")[2]) for row in rows]
    long = sum(length > 250 for length in lengths)
    assert 0 < long < len(rows)
    command = ["cache-teacher", checkpoint, "--data", data, "--subset", "dev_st", "--output"]
    assert f"{long} of {len(rows)} sentences of dev_st" in cli(*command, tmp_path / "some").stderr
    manifest = linked(data, tmp_path / "long", "dev_st.tsv")
    manifest.write_text("\n".join([header, *(row for row, length in zip(rows, lengths) if length > 250)]) + "\n")
    command[3] = manifest.parent
    result = cli(*command, tmp_path / "none", check=False)
    assert result.returncode == 2 and f"{long} of {long} sentences" in result.stderr and "none remains" in result.stderr
    assert not (tmp_path / "none").exists()
