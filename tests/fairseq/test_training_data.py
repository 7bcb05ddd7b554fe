"""Calibration data at the place named by the checkpoint, and after it was moved or renamed."""

import json
import shutil

import pytest
import torch
from conftest import cli, tiny_flags

from residual_st.fairseq.checkpoints import load_checkpoint
from residual_st.fairseq.standalone import build_model
from residual_st.fairseq.training_data import TrainingData


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    """A dense checkpoint whose flags name two training subsets and two validation subsets."""
    path = tmp_path_factory.mktemp("model") / "dense.pt"
    task = {"task": "speech_to_text", "config_yaml": "config_st_plain.yaml", "seed": 1}
    flags = tiny_flags("s2t_transformer_s", **task, train_subset="train_st,train_more_st", valid_subset="dev_st,tst-HE_st")
    flags.criterion, flags.label_smoothing, flags.sentence_avg = "label_smoothed_cross_entropy", 0.1, False
    torch.manual_seed(1)
    torch.save({"args": flags, "model": build_model(flags, 150).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def two_subsets(data, tmp_path_factory):
    """The corpus with its training manifest split in two."""
    folder = tmp_path_factory.mktemp("two") / "data"
    folder.mkdir()
    for file in data.iterdir():
        if file.name != "train_st.tsv":
            (folder / file.name).symlink_to(file)
    header, *lines = (data / "train_st.tsv").read_text().splitlines()
    (folder / "train_st.tsv").write_text("\n".join([header, *lines[:70]]) + "\n")
    (folder / "train_more_st.tsv").write_text("\n".join([header, *lines[70:]]) + "\n")
    return folder


def test_all_subsets_are_used(two_subsets, data, checkpoint):
    given = TrainingData(load_checkpoint(checkpoint), two_subsets)
    batches = list(given.batches(given.train_subset))
    assert sum(batch["nsentences"] for batch in batches) == 124
    whole = TrainingData(load_checkpoint(checkpoint), data, subset="train_st")
    rows = [[row for batch in subset for row in batch["target"].tolist()] for subset in (batches, whole.batches("train_st"))]
    assert sorted(map(_words, rows[0])) == sorted(map(_words, rows[1]))
    validation = [list(given.batches(name)) for name in ("dev_st", "tst-HE_st", "dev_st,tst-HE_st")]
    sizes = [sum(batch["ntokens"] for batch in subset) for subset in validation]
    assert sizes[0] + sizes[1] == sizes[2]


def _words(target: list[int]) -> list[int]:
    return [word for word in target if word != 1]  # padding


def test_losses_cover_all_validation_subsets(two_subsets, checkpoint):
    flags = ["--calibration", two_subsets, "--calibration-batches", 1, "--json", "--force", "--output", checkpoint.parent / "x.pt"]
    losses = {}
    for subsets in ("dev_st", "tst-HE_st", "dev_st,tst-HE_st"):
        losses[subsets] = json.loads(cli("compress", checkpoint, *flags, "--valid-subset", subsets).stdout)["dense"]["nll_loss"]
    assert min(losses["dev_st"], losses["tst-HE_st"]) < losses["dev_st,tst-HE_st"] < max(losses["dev_st"], losses["tst-HE_st"])


def test_flags_name_renamed_files(data, two_subsets, checkpoint, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for name, source in {
        "config.yaml": "config_st_plain.yaml",
        "calib.tsv": "dev_st.tsv",
        "held-out.tsv": "tst-HE_st.tsv",
        "spm_unigram150_st.txt": "spm_unigram150_st.txt",
    }.items():
        shutil.copy(data / source, moved / name)
    command = ["compress", checkpoint, "--output", tmp_path / "x.pt", "--calibration", moved, "--calibration-batches", 1]
    missing = cli(*command, check=False)
    assert missing.returncode == 2
    assert "config_st_plain.yaml does not exist" in missing.stderr and "--config-yaml NAME" in missing.stderr
    missing = cli(*command, "--config-yaml", "config.yaml", check=False)
    assert "train_st.tsv does not exist" in missing.stderr and "--subset NAME" in missing.stderr
    missing = cli(*command, "--config-yaml", "config.yaml", "--subset", "calib", check=False)
    assert "dev_st.tsv does not exist" in missing.stderr and "--valid-subset NAME" in missing.stderr
    assert not (tmp_path / "x.pt").exists()
    cli(*command, "--config-yaml", "config.yaml", "--subset", "calib", "--valid-subset", "held-out")
    assert (tmp_path / "x.pt").exists()


def test_missing_feature_file_is_named(data, checkpoint, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).symlink_to(file)
    for name in ("train_st", "dev_st"):
        (folder / f"{name}.tsv").unlink()
        (folder / f"{name}.tsv").write_text((data / f"{name}.tsv").read_text().replace(str(data), "/gone"))
    flags = ["--calibration", folder, "--subset", "train_st", "--valid-subset", "dev_st", "--output", tmp_path / "x.pt"]
    result = cli("compress", checkpoint, *flags, check=False)
    assert result.returncode == 2
    assert "/gone/fbank80.zip" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criterion": "nonsense"}, "the checkpoint's criterion nonsense cannot be built"),
        ({"task": "nonsense"}, "the checkpoint's task nonsense cannot use"),
        ({"encoder_freezing_updates": None}, None),
    ],
)
def test_invalid_task_and_criterion_are_refused(data, checkpoint, tmp_path, change, message):
    state = torch.load(checkpoint, weights_only=True)
    vars(state["args"]).update({"train_subset": "train_st", "valid_subset": "dev_st", **change})
    torch.save(state, tmp_path / "a.pt")
    flags = ["--calibration", data, "--calibration-batches", 1, "--output", tmp_path / "x.pt"]
    result = cli("compress", tmp_path / "a.pt", *flags, check=False)
    assert result.returncode == (2 if message else 0)
    assert not message or message in result.stderr


@pytest.mark.parametrize("calibrated", [False, True])
def test_zero_weights_are_accepted_and_non_finite_ones_refused(data, checkpoint, tmp_path, calibrated):
    state = torch.load(checkpoint, weights_only=True)
    flags = ["--output", tmp_path / "x.pt", "--force"]
    if calibrated:
        flags += ["--calibration", data, "--calibration-batches", 1, "--subset", "train_st", "--valid-subset", "dev_st"]
    state["model"]["encoder.transformer_layers.2.fc1.weight"].zero_()
    state["model"]["encoder.transformer_layers.3.self_attn.out_proj.weight"].zero_()
    torch.save(state, tmp_path / "pruned.pt")
    for size in (["--residual-rank", 4], ["--encoder-weight-fraction", 0.7]):
        cli("compress", tmp_path / "pruned.pt", *flags, *size)
        weights = torch.load(tmp_path / "x.pt", weights_only=True)["model"]
        assert all(value.isfinite().all() for value in weights.values())
    for value in (float("nan"), float("inf")):
        state["model"]["encoder.transformer_layers.1.fc2.weight"][0, 0] = value
        torch.save(state, tmp_path / "broken.pt")
        result = cli("compress", tmp_path / "broken.pt", *flags, check=False)
        assert result.returncode == 2
        assert "broken.pt has weights that are not finite numbers: encoder.transformer_layers.1.fc2.weight" in result.stderr
