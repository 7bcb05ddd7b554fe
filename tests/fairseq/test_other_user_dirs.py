"""`user-dir --with OTHER`, for a user dir that imports itself by another name, as FBK-fairseq does."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import BIN, TINY, USER_DIR, cli, run, to_flags

FOREIGN = Path(__file__).parent.parent / "foreign_user_dir"
OTHERS = {"path": FOREIGN / "examples" / "foreign_speech", "module": "examples.foreign_speech"}
FLAGS = {
    **{name: value for name, value in TINY.items() if name != "encoder_ffn_embed_dim"},
    "arch": "foreign_conformer",
    "task": "speech_to_text",
    "config_yaml": "config_st_plain.yaml",
    "train_subset": "train_st",
    "valid_subset": "dev_st",
    "criterion": "label_smoothed_cross_entropy",
    "optimizer": "adam",
    "lr": 1e-3,
    "max_tokens": 4000,
    "max_update": 3,
    "cpu": True,
    "no_epoch_checkpoints": True,
    "disable_validation": True,
    "encoder_group_size": 2,
    "encoder_residual_rank": 2,
}


def folder_with(cache: Path, *user_dirs, cwd=FOREIGN) -> str:
    """The output of `user-dir --with` in a folder from which the module can be imported."""
    flags = [part for user_dir in user_dirs for part in ("--with", user_dir)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return run(BIN / "residual-st", "user-dir", *flags, cwd=cwd, env=environment).stdout.strip()


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A checkpoint trained with a generated user dir that is deleted afterwards."""
    folder = tmp_path_factory.mktemp("foreign")
    together = folder_with(folder / "cache", OTHERS["path"])
    run(BIN / "fairseq-train", data, "--user-dir", together, *to_flags({**FLAGS, "save_dir": folder, "num_workers": 2}), cwd=folder)
    shutil.rmtree(folder / "cache")
    return folder / "checkpoint_last.pt"


def hypotheses(data: Path, checkpoint: Path, user_dir: str, **options) -> list[str]:
    flags = {"user_dir": user_dir, "path": checkpoint, "gen_subset": "tst-HE_st", "beam": 2, "max_len_b": 5, "num_workers": 2}
    flags |= {"task": "speech_to_text", "config_yaml": "config_st_plain.yaml", "required_batch_size_multiple": 1, "cpu": True}
    output = run(BIN / "fairseq-generate", data, *to_flags(flags), cwd=checkpoint.parent, **options).stdout
    lines = sorted(re.findall(r"^H-(\d+\t-?\d+\.\d{3})\d*(.*)$", output, re.MULTILINE))
    assert len(lines) == len((data / "tst-HE_st.tsv").read_text().splitlines()) - 1
    return lines


def test_shared_model_of_another_user_dir_is_decoded_and_expanded(data, trained, tmp_path):
    """The path of the generated package in the checkpoint is ignored.

    The expanded model gives the same texts without residual_st.
    """
    expected = hypotheses(data, trained, folder_with(tmp_path, OTHERS["module"]))
    command = [BIN / "residual-st", "expand", trained, "--output", tmp_path / "dense.pt", "--user-dir", OTHERS["path"]]
    run(*command, cwd=tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "__init__.py").write_text("import examples.foreign_speech")
    environment = {**os.environ, "PYTHONPATH": str(FOREIGN)}
    assert hypotheses(data, tmp_path / "dense.pt", str(alone), env=environment) == expected


def test_config_with_another_user_dir_trains_with_two_processes(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = {**FLAGS, "data": data, "user_dir": OTHERS["path"], "save_dir": tmp_path / "run", "num_workers": 0, "nproc": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({name.replace("_", "-"): str(value) for name, value in flags.items()}))
    run(BIN / "residual-st", "train", "run.yaml", cwd=tmp_path)
    state = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 3
    assert "encoder.conformer_layers.5.attention.pos_proj.up" in state["model"]


def test_generated_folder_is_equal_for_equal_user_dirs(tmp_path, monkeypatch):
    folder = folder_with(tmp_path, OTHERS["path"])
    text = (Path(folder) / "__init__.py").read_text()
    assert folder_with(tmp_path, OTHERS["module"]) == folder
    assert folder_with(tmp_path, f"{OTHERS['path']}/../foreign_speech/", USER_DIR, cwd=tmp_path) == folder
    assert (Path(folder) / "__init__.py").read_text() == text
    (tmp_path / "plugin" / "models").mkdir(parents=True)
    assert folder_with(tmp_path, OTHERS["path"], "plugin", cwd=tmp_path) != folder
    assert folder_with(tmp_path, USER_DIR) == str(USER_DIR)
    assert {path.parent for path in tmp_path.rglob("__init__.py")} >= {Path(folder)}


@pytest.mark.parametrize(
    ("user_dirs", "sentence"),
    [
        (["missing/speech"], "missing/speech is neither a folder nor a module on Python's path"),
        (["examples.missing"], "examples.missing is neither a folder nor a module on Python's path"),
        (["sys"], "sys is neither a folder"),
        (["__hello__"], "__hello__ is neither a folder"),  # part of Python itself, without a file
        (["empty"], "empty is not a fairseq user dir: it must contain __init__.py, models or tasks"),
        (["with.dot"], "with.dot cannot be imported, because its name contains a dot"),
        (["one/plugin", "two/plugin"], "two user dirs have the name plugin"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_invalid_user_dirs_are_refused(tmp_path, monkeypatch, user_dirs, sentence):
    (tmp_path / "empty").mkdir()
    for folder in ("with.dot", "one/plugin", "two/plugin"):
        (tmp_path / folder / "tasks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = cli("user-dir", *(part for user_dir in user_dirs for part in ("--with", user_dir)), check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "cache").exists()


def test_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result = cli("user-dir", "--with", OTHERS["path"], check=False)
    assert result.returncode == 2 and "set XDG_CACHE_HOME to another folder" in result.stderr


def test_user_dir_imported_by_the_wrong_name_is_refused_with_the_right_one(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(USER_DIR.parent), str(OTHERS["path"].parent), str(FOREIGN)])}
    command = [BIN / "residual-st", "inspect", "--user-dir", "foreign_speech", tmp_path / "none.pt"]
    result = run(*command, env=environment, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("give that name, as in --with examples.foreign_speech")


SPAWN = """\
import sys
import torch
from fairseq_cli.train import cli_main

if __name__ == "__main__":
    torch.cuda.device_count = lambda: 2  # fairseq spawns one process per GPU
    cli_main()
"""


def test_processes_spawned_by_fairseq_import_both_user_dirs(data, tmp_path):
    (tmp_path / "spawn.py").write_text(SPAWN)
    flags = {**FLAGS, "user_dir": folder_with(tmp_path, OTHERS["module"]), "save_dir": tmp_path, "num_workers": 0}
    flags |= {"distributed_world_size": 2, "distributed_backend": "gloo", "distributed_init_method": f"file://{tmp_path}/meet"}
    run(sys.executable, "spawn.py", data, *to_flags(flags), cwd=tmp_path)
    assert torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["optimizer_history"][-1]["num_updates"] == 3


def test_output_printed_by_a_user_dir_is_kept_out_of_stdout(trained, tmp_path):
    figures = json.loads(run(BIN / "residual-st", "inspect", trained, "--json", "--user-dir", OTHERS["path"], cwd=tmp_path).stdout)
    assert figures["groups"] == [0, 0, 1, 1, 2, 2]
