"""Distillation through fairseq-train."""

import json
import os
import sys

import pytest
import torch
from conftest import ROOT, cli, run, same_weights

from residual_st.errors import InputError
from residual_st.fairseq.distillation import teacher_loss
from residual_st.fairseq.distillation.cache import TeacherCache, write_cache
from residual_st.fairseq.standalone import load_model

CRITERION = "label_smoothed_cross_entropy_with_residual"
STUDENT = {"criterion": CRITERION, "ctc_weight": 0.3, "task": "asr", "dropout": 0, "lr": 3e-3}


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """A dense model after a short training."""
    folder = tmp_path_factory.mktemp("teacher")
    command = [
        "train",
        ROOT / "configs" / "quality_asr.yaml",
        f"data={data}",
        "config-yaml=config_asr_plain.yaml",
        f"save-dir={folder}",
    ]
    sizes = ["encoder-layers=6", "encoder-embed-dim=32", "encoder-ffn-embed-dim=48", "decoder-embed-dim=32", "conv-channels=32"]
    run(
        *(sys.executable, "-m", "residual_st", *command, *sizes, "max-update=40", "warmup-updates=5", "total-num-update=60"),
        env={**os.environ, "DEMO_ROOT": "unused"},
    )
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def cache(teacher, data):
    folder = teacher.parent / "words"
    printed = cli("cache-teacher", teacher, "--data", data, "--output", folder, "--top-k", 110, "--json").stdout
    return folder, json.loads(printed)


def test_cache_of_all_words_equals_a_live_teacher(fairseq_train, data, teacher, cache, tmp_path):
    folder, figures = cache
    assert figures["sentences"] == 124
    assert figures["skipped"] == 0
    flags = {**STUDENT, "max_update": 6, "distill_weight": 0.7, "distill_temperature": 2.0}
    live = fairseq_train(data, tmp_path / "live", distill_from=teacher, **flags)
    cached = fairseq_train(data, tmp_path / "cached", distill_from=folder, **flags)
    undistilled = fairseq_train(data, tmp_path / "alone", **STUDENT, max_update=6)
    assert live == pytest.approx(cached, rel=2e-3)  # the cache stores float16
    assert live != pytest.approx(undistilled, rel=2e-2)


def test_student_approaches_its_teacher_and_stores_nothing_of_it(fairseq_train, data, teacher, tmp_path, caplog):
    caplog.set_level("INFO", logger="fairseq")
    start = {**STUDENT, "max_update": 30, "encoder_group_size": 3, "log_interval": 1, "encoder_embed_dim": 32}
    fairseq_train(data, tmp_path / "alone", **start)
    caplog.clear()
    fairseq_train(data, tmp_path / "distilled", distill_from=teacher, distill_weight=1.0, distill_encoder_weight=1.0, **start)
    lines = [json_of(record.getMessage()) for record in caplog.records if record.name == "train_inner"]
    for name in ("distill_loss", "distill_encoder_loss"):
        assert lines[-1][name] < 0.8 * lines[0][name]
    distilled, alone = (torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True) for name in ("distilled", "alone"))
    assert {key: value.shape for key, value in distilled["model"].items()} == {
        key: value.shape for key, value in alone["model"].items()
    }
    assert distilled["criterion"] is None  # where fairseq saves the parameters of a criterion
    states = [len(state["last_optimizer_state"]["state"]) for state in (distilled, alone)]
    assert states[0] == states[1]


def json_of(line: str) -> dict[str, float]:
    return {key: float(value) for key, _, value in (part.partition("=") for part in line.split(": ")[-1].split(", ")[1:])}


def test_teacher_file_is_opened_once_and_unchanged(fairseq_train, data, teacher, tmp_path, monkeypatch):
    opened = []
    original = teacher_loss.open_teacher
    monkeypatch.setattr(teacher_loss, "open_teacher", lambda *args: opened.append(original(*args)) or opened[-1])

    before = load_model(teacher)[1].state_dict()
    fairseq_train(data, tmp_path, distill_from=teacher, max_update=20, **STUDENT)  # more than one epoch
    assert len(opened) == 1
    assert same_weights(opened[0]._model.state_dict(), before)
    assert not opened[0]._model.training


def test_validation_loss_excludes_distillation(fairseq_train, data, teacher, tmp_path, caplog):
    caplog.set_level("INFO", logger="fairseq")
    fairseq_train(data, tmp_path, distill_from=teacher, max_update=2, **STUDENT)
    valid = next(record.getMessage() for record in caplog.records if record.name == "dev_asr")
    assert "nll_loss" in valid
    assert "distill" not in valid


def test_student_is_decoded_and_resumed_without_its_teacher(fairseq_train, data, teacher, tmp_path):
    own = tmp_path / "teacher.pt"
    own.write_bytes(teacher.read_bytes())
    fairseq_train(data, tmp_path / "student", distill_from=own, max_update=2, **STUDENT)
    own.unlink()
    checkpoint = tmp_path / "student" / "checkpoint_last.pt"
    cli("inspect", checkpoint)
    cli("expand", checkpoint, "--output", tmp_path / "dense.pt")
    flags = torch.load(tmp_path / "dense.pt", weights_only=True)["cfg"]["criterion"]
    assert not [name for name in flags if name.startswith("distill")]


def test_states_are_distilled_between_depths_but_not_between_widths(fairseq_train, data, teacher, cache, tmp_path):
    states = {**STUDENT, "distill_encoder_weight": 1.0, "max_update": 2}
    fairseq_train(data, tmp_path / "shallow", distill_from=teacher, **states, encoder_layers=3)
    with pytest.raises(InputError, match="the student has 40 and .* 32"):
        fairseq_train(data, tmp_path / "wide", distill_from=teacher, **states, encoder_embed_dim=40)
    with pytest.raises(InputError, match="needs the teacher's checkpoint"):
        fairseq_train(data, tmp_path / "cached", distill_from=cache[0], **states)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"distill_temperature": 2.0}, "need a teacher, given by --distill-from"),
        ({"distill_from": "x.pt", "distill_weight": 1.5}, "must be from 0 to 1"),
        ({"distill_from": "x.pt", "distill_temperature": 0.0}, "must be above 0"),
        ({"distill_from": "nowhere.pt"}, "nowhere.pt does not exist"),
    ],
)
def test_invalid_distillation_flags_are_refused(fairseq_train, data, tmp_path, options, sentence):
    with pytest.raises(InputError, match=sentence):
        fairseq_train(data, tmp_path, max_update=1, **STUDENT, **options)


def test_teacher_with_another_dictionary_is_refused(fairseq_train, data, teacher, cache, tmp_path):
    for path in (teacher, cache[0]):
        with pytest.raises(InputError, match="has 110 words, but the student's has 150"):
            fairseq_train(data, tmp_path, max_update=1, distill_from=path, **{**STUDENT, "task": "st"})


def test_cache_of_another_manifest_is_refused(fairseq_train, data, cache, tmp_path):
    reversed_data = tmp_path / "data"
    reversed_data.mkdir()
    for file in data.iterdir():
        (reversed_data / file.name).symlink_to(file)
    lines = (data / "train_asr.tsv").read_text().splitlines()
    (reversed_data / "train_asr.tsv").unlink()
    (reversed_data / "train_asr.tsv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(InputError, match="the same manifest and dictionary"):
        fairseq_train(reversed_data, tmp_path / "run", max_update=1, distill_from=cache[0], **STUDENT)


def test_teacher_input_has_no_specaugment(teacher, data, tmp_path, cache):
    state = torch.load(teacher, weights_only=True)
    state["cfg"]["task"].config_yaml = "config_asr.yaml"  # with SpecAugment
    torch.save(state, tmp_path / "augmented.pt")
    cli("cache-teacher", tmp_path / "augmented.pt", "--data", data, "--output", tmp_path / "words", "--top-k", 110)
    assert "specaugment" in (data / "config_asr.yaml").read_text()
    for name in ("words.bin", "log_probs.bin", "targets.bin"):
        assert (tmp_path / "words" / name).read_bytes() == (cache[0] / name).read_bytes()


def test_cache_teacher_refuses_wrong_usage_and_keeps_existing_files(teacher, data, cache, tmp_path):
    def refused(*arguments):
        result = cli("cache-teacher", *arguments, check=False)
        assert result.returncode == 2
        assert len(result.stderr.strip().splitlines()) == 1
        return result.stderr

    base = ["--data", data, "--output", tmp_path / "words"]
    assert "does not exist" in refused(tmp_path / "none.pt", *base)
    assert "must be from 1 to 110, the size of the dictionary" in refused(teacher, *base, "--top-k", 111)
    assert "several manifests" in refused(teacher, *base, "--subset", "train_asr,dev_asr")
    assert "already exists" in refused(teacher, "--data", data, "--output", cache[0])
    (tmp_path / "precious").mkdir()
    assert "already exists" in refused(teacher, "--data", data, "--output", tmp_path / "precious", "--force")
    assert "does not exist" in refused(teacher, "--data", data, "--output", tmp_path / "no" / "words")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_interrupted_cache_leaves_no_folder(tmp_path):
    def batches():
        yield torch.tensor([0]), torch.tensor([[4, 5, 2]]), torch.randn(1, 3, 8).log_softmax(-1)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_cache(tmp_path / "words", 2, batches(), 4, 8)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="not a teacher's cache"):
        TeacherCache(tmp_path)


def test_sentence_missing_in_the_cache_is_refused(tmp_path):
    teacher_log_probs = torch.randn(1, 3, 8).log_softmax(-1)
    write_cache(tmp_path / "words", 2, [(torch.tensor([1]), torch.tensor([[4, 5, 2]]), teacher_log_probs)], 4, 8)
    cache = TeacherCache(tmp_path / "words")
    words, log_probs = cache.lookup(torch.tensor([1]), torch.tensor([[4, 5, 2, 1]]))
    torch.testing.assert_close(log_probs[0, :3], teacher_log_probs[0].topk(4).values, rtol=1e-3, atol=1e-3)
    assert torch.equal(words[0, :3], teacher_log_probs[0].topk(4).indices)
    with pytest.raises(InputError, match="does not contain sentence 0"):
        cache.lookup(torch.tensor([0]), torch.tensor([[4, 5, 2]]))
