"""`user-dir --with OTHER`, on a user dir with the layout and the habits of FBK-fairseq's: it imports itself by another name."""

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


def folder_with(cache: Path, *others, cwd=FOREIGN) -> str:
    """What `user-dir --with` prints where the module can be found: in the folder that it is in."""
    flags = [part for other in others for part in ("--with", other)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return run(BIN / "residual-st", "user-dir", *flags, cwd=cwd, env=environment).stdout.strip()


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """Trained with the folder of a user dir, whose generated package is then gone."""
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


def test_a_shared_model_of_another_user_dir(data, trained, tmp_path):
    """It translates wherever the generated package is now: what the checkpoint says of it is not read.

    Expanded, it translates alike where nothing of ours is.
    """
    spoken = hypotheses(data, trained, folder_with(tmp_path, OTHERS["module"]))
    command = [BIN / "residual-st", "expand", trained, "--output", tmp_path / "dense.pt", "--user-dir", OTHERS["path"]]
    run(*command, cwd=tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "__init__.py").write_text("import examples.foreign_speech")
    environment = {**os.environ, "PYTHONPATH": str(FOREIGN)}
    assert hypotheses(data, tmp_path / "dense.pt", str(alone), env=environment) == spoken


def test_a_config_names_another_user_dir_for_two_processes(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = {**FLAGS, "data": data, "user_dir": OTHERS["path"], "save_dir": tmp_path / "run", "num_workers": 0, "nproc": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({name.replace("_", "-"): str(value) for name, value in flags.items()}))
    run(BIN / "residual-st", "train", "run.yaml", cwd=tmp_path)
    state = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 3
    assert "encoder.conformer_layers.5.attention.pos_proj.up" in state["model"]


def test_the_folder_is_the_same_for_the_same_user_dirs(tmp_path, monkeypatch):
    one = folder_with(tmp_path, OTHERS["path"])
    text = (Path(one) / "__init__.py").read_text()
    assert folder_with(tmp_path, OTHERS["module"]) == one
    assert folder_with(tmp_path, f"{OTHERS['path']}/../foreign_speech/", USER_DIR, cwd=tmp_path) == one
    assert (Path(one) / "__init__.py").read_text() == text
    (tmp_path / "plugin" / "models").mkdir(parents=True)
    assert folder_with(tmp_path, OTHERS["path"], "plugin", cwd=tmp_path) != one
    assert folder_with(tmp_path, USER_DIR) == str(USER_DIR)
    assert {path.parent for path in tmp_path.rglob("__init__.py")} >= {Path(one)}


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (["missing/speech"], "missing/speech is neither a folder nor a module on Python's path"),
        (["examples.missing"], "examples.missing is neither a folder nor a module on Python's path"),
        (["sys"], "sys is neither a folder"),
        (["empty"], "empty is not a fairseq user dir: it must contain __init__.py, models or tasks"),
        (["with.dot"], "with.dot cannot be imported, because its name contains a dot"),
        (["one/plugin", "two/plugin"], "two user dirs have the name plugin"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_a_user_dir_is_refused(tmp_path, monkeypatch, others, sentence):
    (tmp_path / "empty").mkdir()
    for folder in ("with.dot", "one/plugin", "two/plugin"):
        (tmp_path / folder / "tasks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = cli("user-dir", *(part for other in others for part in ("--with", other)), check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result = cli("user-dir", "--with", OTHERS["path"], check=False)
    assert result.returncode == 2 and "set XDG_CACHE_HOME to another folder" in result.stderr


def test_a_user_dir_that_imports_itself_by_another_name_is_told_which(tmp_path):
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
    torch.cuda.device_count = lambda: 2  # fairseq spawns one process a GPU
    cli_main()
"""


def test_processes_that_fairseq_spawns_find_both(data, tmp_path):
    (tmp_path / "spawn.py").write_text(SPAWN)
    flags = {**FLAGS, "user_dir": folder_with(tmp_path, OTHERS["module"]), "save_dir": tmp_path, "num_workers": 0}
    flags |= {"distributed_world_size": 2, "distributed_backend": "gloo", "distributed_init_method": f"file://{tmp_path}/meet"}
    run(sys.executable, "spawn.py", data, *to_flags(flags), cwd=tmp_path)
    assert torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["optimizer_history"][-1]["num_updates"] == 3


def test_what_a_user_dir_prints_is_no_output_of_a_command(trained, tmp_path):
    figures = json.loads(run(BIN / "residual-st", "inspect", trained, "--json", "--user-dir", OTHERS["path"], cwd=tmp_path).stdout)
    assert figures["groups"] == [0, 0, 1, 1, 2, 2]
