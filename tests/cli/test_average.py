import errno

import pytest
import torch
from conftest import tiny_flags, tiny_model

from residual_st.cli import main


def save(model, path, **extra):
    state = {
        "model": model.state_dict(),
        "cfg": {"model": tiny_flags(tgt_dict_size=20)},
        "last_optimizer_state": {"big": torch.zeros(9)},
    }
    torch.save({**state, **extra}, path)
    return str(path)


def test_average_is_the_mean_and_stores_each_shared_weight_once(tmp_path):
    models = [tiny_model(seed=seed) for seed in range(3)]
    paths = [save(model, tmp_path / f"checkpoint{index}.pt") for index, model in enumerate(models)]
    assert main(["average", *paths, "--output", str(tmp_path / "average.pt")]) == 0
    state = torch.load(tmp_path / "average.pt", weights_only=True)
    states = [model.state_dict() for model in models]
    assert list(state["model"]) == list(states[0])
    for name, value in state["model"].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, sum(s[name].double() for s in states).div(3).float())
        else:
            assert torch.equal(value, states[0][name])
    assert "last_optimizer_state" not in state
    tiny_model(seed=9).load_state_dict(state["model"])


def test_last_checkpoints_of_a_folder_are_averaged(tmp_path, capsys):
    for name in (
        "checkpoint1",
        "checkpoint2",
        "checkpoint10",
        "checkpoint_1_100",
        "checkpoint_2_90",
        "checkpoint_last",
        "checkpoint_best",
    ):
        save(tiny_model(), tmp_path / f"{name}.pt")
    output = str(tmp_path / "average.pt")
    assert main(["average", str(tmp_path), "--num-epoch-checkpoints", "2", "--output", output]) == 0
    line = capsys.readouterr().out
    assert "checkpoint10.pt" in line
    assert "checkpoint2.pt" in line
    assert "checkpoint1.pt" not in line
    assert main(["average", str(tmp_path), "--num-update-checkpoints", "1", "--output", output]) == 2
    assert "average.pt already exists" in capsys.readouterr().err
    assert main(["average", str(tmp_path), "--num-update-checkpoints", "1", "--output", output, "--force"]) == 0
    assert "checkpoint_1_100.pt" in capsys.readouterr().out
    assert main(["average", str(tmp_path), "--num-epoch-checkpoints", "4", "--output", str(tmp_path / "b.pt")]) == 2
    assert "contains 3 such checkpoints" in capsys.readouterr().err


def test_different_models_are_refused_and_the_output_is_kept(tmp_path, capsys):
    output = tmp_path / "average.pt"
    output.write_text("precious")
    first = save(tiny_model(), tmp_path / "a.pt")
    second = save(tiny_model(encoder_sharing_pattern="cycle"), tmp_path / "b.pt")
    assert main(["average", first, second, "--output", str(output), "--force"]) == 2
    assert "b.pt differs from the one in" in capsys.readouterr().err
    assert output.read_text() == "precious"


def test_full_disk_leaves_no_partial_output(tmp_path, capsys, monkeypatch):
    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = save(tiny_model(), tmp_path / "a.pt")
    monkeypatch.setattr(torch, "save", full)
    assert main(["average", path, "--output", str(tmp_path / "average.pt")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 truncated"])
def test_damaged_files_are_refused(tmp_path, capsys, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert main(["average", str(path), "--output", str(tmp_path / "average.pt")]) == 2
    assert "a.pt cannot be read as a checkpoint" in capsys.readouterr().err
