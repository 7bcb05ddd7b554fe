"""A colon in a path, at which fairseq splits paths, is refused wherever a path is passed to fairseq."""

import sys

import pytest
from conftest import RECIPE, ROOT, cli, run, tiny_flags, tiny_model

from residual_st.fairseq.checkpoints import save_checkpoint

SENTENCE = "12:30/mustc contains ':', where fairseq splits paths; rename the folder"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "12:30" / "mustc").mkdir(parents=True)
    return tmp_path / "12:30" / "mustc"


COMMANDS = [
    "train {root}/configs/demo.yaml data={folder}",
    "compress {folder}/a.pt --output {folder}/b.pt --calibration {folder}",
    "cache-teacher {folder}/a.pt --output {folder}/words --data {folder}",
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.partition(" {")[0])
def test_commands_refuse_a_colon(folder, monkeypatch, command):
    monkeypatch.setenv("DEMO_ROOT", "/demo")
    dense = "s2t_transformer_s"
    flags = tiny_flags(dense, tgt_dict_size=20, criterion="label_smoothed_cross_entropy")
    save_checkpoint({"model": tiny_model(dense).state_dict(), "args": flags}, folder / "a.pt")
    result = cli(*command.format(root=ROOT, folder=folder).split(), check=False)
    assert result.returncode == 2
    assert result.stderr.endswith(f"{SENTENCE}\n")
    assert len(result.stderr.splitlines()) == 1


def test_recipe_refuses_a_colon(folder):
    arguments = ["--data-root", folder, "--languages", "de", "--task", "st"]
    result = run(sys.executable, RECIPE / "prepare.py", *arguments, check=False)
    assert result.returncode == 2
    assert result.stderr.endswith(f"{SENTENCE}\n")
