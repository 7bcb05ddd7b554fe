"""Patches of fairseq that the user dir applies."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run, tiny_flags
from fairseq import tasks
from fairseq.file_io import PathManager

from residual_st.errors import InputError
from residual_st.fairseq.patches import PATCHES, SWITCH, apply_patches
from residual_st.wrapping import wrap

_KILLED_COPY = """
import os, shutil, signal, sys
import residual_st.models
from fairseq.file_io import PathManager
whole = shutil.copyfile
def killed(source, target):
    with open(source, "rb") as read, open(target, "wb") as written:
        written.write(read.read(10))
    os.kill(os.getpid(), signal.SIGKILL)
shutil.copyfile = killed
PathManager.copy(*sys.argv[1:], overwrite=True)
"""


@pytest.fixture
def training_set(data):
    """The training set of fairseq-train, with SpecAugment."""
    flags = {"task": "speech_to_text", "config_yaml": "config_st.yaml", "data": str(data), "seed": 1, "train_subset": "train_st"}
    task = tasks.setup_task(tiny_flags("s2t_transformer_s", max_source_positions=6000, max_target_positions=1024, **flags))
    task.load_dataset("train_st")
    return task.dataset("train_st")


def test_specaugment_depends_only_on_seed_epoch_and_sentence(training_set):
    def features(seed, epoch, sentence):
        training_set.augmentation_seed = seed
        training_set.set_epoch(epoch)
        np.random.rand(epoch)  # independent of other random draws
        return training_set[sentence].source

    first = features(1, 1, 0)
    assert torch.equal(features(1, 1, 0), first)
    for arguments in ((2, 1, 0), (1, 2, 0)):
        assert not torch.equal(features(*arguments), first)
    np.random.seed(5)
    features(1, 1, 0)
    next_draw = np.random.rand()
    np.random.seed(5)
    np.random.rand(1)
    assert next_draw == np.random.rand()


def test_training_is_equal_for_any_number_of_workers(fairseq_train, data, tmp_path):
    """In every epoch, since workers persist between epochs."""
    options = {"config_yaml": "config_st.yaml", "max_epoch": 3, "max_tokens": 8000}
    losses = [fairseq_train(data, tmp_path / str(workers), num_workers=workers, **options) for workers in (0, 2)]
    plain = fairseq_train(data, tmp_path / "plain", max_epoch=3, max_tokens=8000)
    assert losses[0] == losses[1]
    assert losses[0] != plain


def test_killed_copy_of_a_checkpoint_keeps_the_previous_one(tmp_path):
    new, last = tmp_path / "checkpoint_1_10.pt", tmp_path / "checkpoint_last.pt"
    new.write_bytes(b"new" * 100)
    last.write_bytes(b"before")
    killed = subprocess.run([sys.executable, "-c", _KILLED_COPY, str(new), str(last)])
    assert killed.returncode == -9
    assert last.read_bytes() == b"before"
    PathManager.copy(str(new), str(last), overwrite=True)
    assert last.read_bytes() == new.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_1_10.pt", "checkpoint_last.pt"]


FAULTS = Path(__file__).with_name("faults_of_fairseq.py")


@pytest.mark.parametrize("kept", [0, 1])
def test_patches_are_switched_off_individually_and_work_with_other_wrappers(data, tmp_path, kept):
    """Half of the patches are off in each run."""
    names = list(PATCHES)
    off, on = names[1 - kept :: 2], names[kept::2]
    result = run(sys.executable, FAULTS, data, tmp_path, env={**os.environ, SWITCH: ", ".join(off)})
    *log, report = result.stdout.splitlines()
    report = json.loads(report)
    needless = set(names) - set(apply_patches())  # fairseq 0.12.2 lacks one of the faults
    assert report["active"] == [name for name in on if name not in needless]
    assert set(report["fixed"]) == set(on) | needless
    assert all(report["calls"][name] for name in ("batch_by_size", "copy", "__getitem__"))
    assert [line.partition("fairseq patches: ")[2] for line in log if "fairseq patches" in line] == [
        f"{', '.join(report['active'])} ({SWITCH}=NAME,… turns them off)"
    ]


def test_all_patches_are_switched_off_at_once(data, tmp_path):
    result = run(sys.executable, FAULTS, data, tmp_path, env={**os.environ, SWITCH: "all"})
    assert "fairseq patches" not in result.stdout
    assert set(json.loads(result.stdout.splitlines()[-1])["fixed"]) == set(PATCHES) - set(apply_patches())


def test_unknown_patch_name_is_refused(monkeypatch):
    monkeypatch.setenv(SWITCH, "cpu-ddp,cpu_ddp")
    with pytest.raises(InputError, match=f"^{SWITCH} names the unknown patch 'cpu_ddp'; it must be all, or names from .*cpu-ddp"):
        apply_patches()


def test_patch_that_does_not_fit_is_skipped_with_a_warning(monkeypatch, caplog):
    monkeypatch.setitem(PATCHES, "of-a-fork", lambda: wrap(PathManager, "no_such_function")(print))
    assert "of-a-fork" not in apply_patches()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert (
        "the patch of-a-fork does not fit the installed fairseq and is skipped" in record.message
        and "no_such_function" in record.message
    )


def test_documents_name_every_patch():
    table = (ROOT / "docs" / "commands.md").read_text().partition("| patch |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == list(PATCHES)
