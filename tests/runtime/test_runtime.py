"""Exported models, compared with fairseq's commands on their checkpoints."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import BIN, RECIPE, USER_DIR, cli, run

from residual_st.audio.lengths import DEFAULT, Lengths
from residual_st.audio.reading import read_audio
from residual_st.errors import InputError
from residual_st.languages import Direction
from residual_st.runtime import Settings, Translator
from residual_st.runtime.model import Model

sys.path.append(str(RECIPE))
from must_c import read_talks  # noqa: E402 - the recipe is not a package

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"

WITHOUT_TORCH = """
import sys
for name in ("torch", "fairseq", "sentencepiece", "kaldi_native_fbank", "onnx", "spox"):
    sys.modules[name] = None
from residual_st.cli import main
sys.exit(main(sys.argv[1:]))
"""


def utterances_of(data, subset):
    """Utterance id -> samples."""
    return {
        segment.id: read_audio(talk.wav, 16_000)[segment.start : segment.start + segment.length]
        for talk in read_talks(data, "de", subset)
        for segment in talk.segments
    }


def generated(checkpoint, data, subset, *flags):
    """Sentence number -> [(text, score), …] from fairseq-generate with one sentence per batch."""
    command = [
        BIN / "fairseq-generate",
        data,
        "--user-dir",
        USER_DIR,
        "--task",
        "speech_to_text",
        "--config-yaml",
        "config_st_plain.yaml",
    ]
    command += ["--gen-subset", f"{subset}_st", "--path", checkpoint, "--batch-size", "1", "--cpu", *flags]
    hypotheses = {}
    for line in run(*command).stdout.splitlines():
        if match := re.match(r"D-(\d+)\t(\S+)\t?(.*)", line):
            hypotheses.setdefault(int(match[1]), []).append((match[3], float(match[2])))
    return hypotheses


@pytest.mark.parametrize(
    "settings, flags",
    [
        (Settings(max_len_b=30), ["--beam", "5", "--max-len-b", "30"]),
        (
            Settings(beam=3, nbest=3, lenpen=0.4, unkpen=2.0, max_len_a=0.05, max_len_b=3),
            ["--beam", "3", "--nbest", "3", "--lenpen", "0.4", "--unkpen", "2", "--max-len-a", "0.05", "--max-len-b", "3"],
        ),
        (Settings(beam=1, max_len_b=6), ["--beam", "1", "--max-len-b", "6"]),
    ],
)
def test_hypotheses_equal_those_of_fairseq_generate(settings, flags, exported, shared_checkpoint, data):
    expected = generated(shared_checkpoint, data, "tst-HE", *flags)
    model = Model(exported)
    manifest = (data / "tst-HE_st.tsv").read_text().splitlines()[1:]
    utterances = utterances_of(data, "tst-HE")
    assert len(expected) == len(manifest)
    same = compared = 0
    for number, line in enumerate(manifest):
        (hypotheses,) = model.search([utterances[line.split("\t")[0]]], settings)
        assert len(hypotheses) == len(expected[number]) == settings.nbest
        for hypothesis, (text, score) in zip(hypotheses, expected[number]):
            compared += 1
            if model.vocabulary.text(hypothesis.tokens) == text:
                same += 1
                # fairseq prints logarithms to base 2
                assert hypothesis.score / np.log(2) == pytest.approx(score, abs=2e-3)
    assert same >= 0.97 * compared


def test_batch_gives_the_texts_of_single_utterances(exported, data):
    model, settings = Model(exported), Settings(beam=3, max_len_b=12)
    utterances = list(utterances_of(data, "tst-HE").values())[:4]
    together = model.search(utterances, settings)
    alone = [model.search([samples], settings)[0] for samples in utterances]
    longest = int(np.argmax([len(samples) for samples in utterances]))
    assert together[longest][0].tokens == alone[longest][0].tokens  # the last window of shorter utterances includes padding
    for batched, single in zip(together, alone):
        assert batched[0].score == pytest.approx(single[0].score, abs=0.02)


def test_translation_needs_no_torch(exported, data, tmp_path):
    long = np.concatenate([np.pad(samples, (0, 8000)) for samples in list(utterances_of(data, "tst-HE").values())[:4]])
    soundfile.write(tmp_path / "talk.flac", np.stack([long, long], 1), 16_000)  # two channels
    (tmp_path / "junk.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    names = [SPEECH, tmp_path / "junk.wav", tmp_path / "talk.flac", tmp_path / "short.wav", tmp_path / "missing.wav"]
    arguments = ["translate", exported, *names, "--json", "--jobs", "2", "--longest-seconds", "4", "--max-len-b", "20"]
    result = run(sys.executable, "-c", WITHOUT_TORCH, *arguments, check=False)
    assert result.returncode == 2
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(row["audio"]).name for row in rows] == ["arctic_a0007.wav", "talk.flac"]
    for name, message in (("junk.wav", "cannot be read as audio"), ("short.wav", "shorter than one frame"), ("missing.wav", "")):
        assert any(name in line and message in line for line in result.stderr.splitlines())
    assert "3 of 5 recordings could not be translated" in result.stderr
    assert "Traceback" not in result.stderr
    talk = rows[1]
    assert talk["seconds"] == pytest.approx(len(long) / 16_000, abs=1e-3)
    assert len(talk["segments"]) > 1
    for one, next_one in zip(talk["segments"], talk["segments"][1:]):
        assert 0 <= one["start"] < one["end"] <= next_one["end"] <= talk["seconds"]
    assert talk["text"] == " ".join(segment["text"] for segment in talk["segments"] if segment["text"])


def test_translate_reads_standard_input_and_writes_every_format(exported, tmp_path):
    text = cli("translate", exported, SPEECH, "--max-len-b", "10").stdout
    command = [BIN / "residual-st", "translate", exported, "-", "--max-len-b", "10"]
    with SPEECH.open("rb") as audio:
        piped = subprocess.run([str(part) for part in command], stdin=audio, capture_output=True, text=True, check=True)
    assert piped.stdout == text
    for form in ("srt", "vtt", "txt", "json"):
        flags = [] if form == "txt" else [f"--{form}"]
        cli("translate", exported, SPEECH, "--max-len-b", "10", "--output", tmp_path / "texts", *flags)
    assert sorted(path.name for path in (tmp_path / "texts").iterdir()) == [
        f"arctic_a0007.{form}" for form in ("json", "srt", "txt", "vtt")
    ]
    assert (tmp_path / "texts" / "arctic_a0007.txt").read_text() == text


def test_multilingual_model_needs_a_target_language(joint, fairseq_train, tmp_path):
    subsets = {"train_subset": "train_de_st,train_fr_st", "valid_subset": "dev_de_st,dev_fr_st", "config_yaml": "config_st.yaml"}
    fairseq_train(joint, tmp_path / "run", max_update=10, lr=5e-3, ignore_prefix_size=1, **subsets)
    cli("export", tmp_path / "run" / "checkpoint_last.pt", "--data", joint, "--output", tmp_path / "model")
    for language in ("de", "fr"):
        model = Model(tmp_path / "model")
        (hypotheses,) = model.search([read_audio(SPEECH, 16_000)], Settings(max_len_b=8), Direction(target_lang=language))
        assert hypotheses[0].tokens[0] == model.vocabulary.symbols.index(f"<lang:{language}>")
        assert "<lang" not in model.vocabulary.text(hypotheses[0].tokens)
    for flags, message in (
        ([], "target_lang is missing; it must be one of de, fr"),
        (["--target-lang", "it"], "target_lang=it is not supported by this model; it must be one of de, fr"),
        (["--task", "translate"], "task=translate: the model has one task, so task must not be given"),
        (["--source-lang", "en"], "source_lang=en: the model has one source language, so source_lang must not be given"),
    ):
        result = cli("translate", tmp_path / "model", SPEECH, *flags, check=False)
        assert result.returncode == 2
        assert message in result.stderr


def test_incomplete_folders_are_refused(exported, tmp_path):
    def refused(change, message):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported, folder)
        change(folder)
        with pytest.raises(InputError, match=message):
            Model(folder)

    def edit(**changes):
        def change(folder):
            path = folder / "model.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

        return change

    def flip_bit(folder):
        content = bytearray((folder / "decoder.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "decoder.onnx").write_bytes(content)

    refused(lambda folder: (folder / "model.json").unlink(), "has no model.json; give a folder written by residual-st export")
    refused(lambda folder: (folder / "model.json").write_text("{"), "model.json is damaged")
    refused(lambda folder: (folder / "model.json").write_text("[]"), "model.json is damaged")
    refused(lambda folder: (folder / "encoder.onnx").unlink(), "encoder.onnx does not exist")
    refused(lambda folder: (folder / "encoder.onnx").write_bytes(b"short"), "has 5 bytes instead of")
    refused(flip_bit, "its checksum differs")
    refused(edit(format=4), "has format 4; this release reads formats 1, 2, 3")
    refused(edit(settings={"beam": 1.5}), "model.json is damaged")
    refused(edit(vocabulary={}), "model.json is damaged")
    refused(edit(decoder={"layers": "two"}), "model.json is damaged")


def test_wrong_usage_is_refused(exported, tmp_path):
    for arguments, message in (
        ([SPEECH, "--beam", "0"], "beam=0 must be a whole number from 1 to 100"),
        ([SPEECH, "--beam", "100000"], "beam=100000 must be a whole number from 1 to 100"),
        ([SPEECH, "--lenpen", "nan"], "lenpen=nan must be a finite number"),
        ([SPEECH, "--threads", "0"], "--threads 0 must be from 1 to 1,024"),
        ([SPEECH, "--output", SPEECH], "must be a folder, and is a file"),
        ([tmp_path / "missing.wav", "--output", tmp_path / "texts"], "missing.wav"),
        ([SPEECH, "--nbest", "6"], "--nbest 6 must be at most --beam 5"),
        ([SPEECH, "--lang", "de"], "--lang de is no longer a flag: give --source-lang for Whisper"),
        ([SPEECH, "--target-lang", "de"], "the model has one target language, so target_lang must not be given"),
        ([SPEECH, "--longest-seconds", "100"], "at most 60"),
        ([SPEECH, SPEECH, "--srt"], "--srt for several recordings needs --output FOLDER"),
        ([SPEECH, SPEECH, "--output", tmp_path / "texts"], "would both be written to arctic_a0007.txt"),
    ):
        result = cli("translate", exported, *arguments, check=False)
        assert result.returncode == 2, arguments
        assert message in result.stderr
    assert not (tmp_path / "texts").exists()


def test_existing_texts_are_overwritten_only_if_forced(exported, tmp_path):
    texts = tmp_path / "texts"
    cli("translate", exported, SPEECH, "--max-len-b", "5", "--output", texts)
    written, edited = (texts / "arctic_a0007.txt").read_text(), "corrected by hand"
    (texts / "arctic_a0007.txt").write_text(edited)
    result = cli("translate", exported, SPEECH, "--max-len-b", "5", "--output", texts, check=False)
    assert result.returncode == 2 and "arctic_a0007.txt already exists" in result.stderr
    assert (texts / "arctic_a0007.txt").read_text() == edited
    cli("translate", exported, SPEECH, "--max-len-b", "5", "--output", texts, "--force")
    assert (texts / "arctic_a0007.txt").read_text() == written


def test_arrays_of_samples_are_translated(exported):
    translator = Translator(exported, Settings(max_len_b=10))
    samples, rate = soundfile.read(SPEECH, dtype="int16")
    assert translator.translate(samples, rate).text == translator.translate(SPEECH).text
    with pytest.raises(InputError, match="shorter than one frame"):
        translator.translate(io.BytesIO(wav_of(np.zeros(10))))


def wav_of(samples) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="wav")
    return file.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_characters_outside_the_encoding_are_escaped(exported, tmp_path, encoding):
    for name in ("λόγος.wav", "ende.wav", os.fsdecode(b"\xff.wav")):
        shutil.copyfile(SPEECH, tmp_path / name)
    names = sorted(os.listdir(tmp_path))
    command = [BIN / "residual-st", "translate", exported, *(tmp_path / name for name in names), "--json"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    printed = subprocess.run(command, env=environment, capture_output=True, check=True).stdout.decode(encoding)
    assert [Path(json.loads(line)["audio"]).name for line in printed.splitlines()] == names


def test_recording_without_speech_has_no_text(exported, tmp_path):
    rng, translator = np.random.default_rng(1), Translator(exported, Settings(max_len_b=10))
    speech = read_audio(SPEECH, 16_000)
    sounds = {"silence": np.zeros(8 * 16_000), "noise": 0.05 * rng.standard_normal(8 * 16_000)}
    for name, samples in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
        assert translator.translate(samples.astype(np.float32)).segments == []
    soundfile.write(tmp_path / "crossed.wav", np.stack([speech, -speech], 1), 16_000)
    arguments = [tmp_path / f"{name}.wav" for name in (*sounds, "crossed")]
    result = cli("translate", exported, *arguments, "--max-len-b", "10", "--json")
    silence, noise, crossed = map(json.loads, result.stdout.splitlines())
    for row in (silence, noise):
        assert (row["speech"], row["text"], row["segments"]) == (False, "", [])
        assert f"{row['audio']} contains no speech" in result.stderr
    assert crossed["speech"]
    assert crossed["text"] == translator.translate(speech).text
    assert cli("translate", exported, arguments[0], "--srt").stdout.strip() == ""
    assert cli("translate", exported, arguments[0], "--vtt").stdout.strip() == "WEBVTT"


def test_maximum_length_is_that_of_the_training_data(exported, runs, data, shared_checkpoint, tmp_path):
    frames = [int(line.split("\t")[2]) for line in (data / "train_st.tsv").read_text().splitlines()[1:]]
    lengths = Model(exported).folder.lengths
    assert np.percentile(frames, 95) < 100 * lengths.longest <= max(frames) + 10
    assert lengths.joined == 0

    def edited(**changes):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported, folder)
        description = {**json.loads((folder / "model.json").read_text()), **changes}
        (folder / "model.json").write_text(json.dumps({name: value for name, value in description.items() if value is not None}))
        return folder

    assert Model(edited(lengths=None)).folder.lengths == DEFAULT, "a folder of an earlier release"
    assert Model(edited(lengths=None, arch="whisper", longest_seconds=30)).folder.lengths == Lengths(30, 30)
    short = edited(lengths=None, longest_seconds=8)
    assert Translator(short).lengths == Lengths(8)
    assert Translator(short, Settings(max_len_b=5)).translate(SPEECH).segments
    for wrong in (
        {"longest": 0, "joined": 0},
        {"longest": 5, "joined": 9},
        {"longest": "x", "joined": 0},
        {"longest": 5, "more": 0},
    ):
        with pytest.raises(InputError, match="model.json is damaged"):
            Model(edited(lengths=wrong))
