import re

import pytest
import torch
import yaml
from conftest import ROOT, USER_DIR, tiny_flags

from residual_st.cli import main

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def corpus_folder(monkeypatch):
    monkeypatch.setenv("MUSTC_ROOT", "/mustc")
    monkeypatch.setenv("DEMO_ROOT", "/demo")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_a_valid_command(capsys, config):
    assert main(["train", str(config), "--dry-run"]) == 0
    command = capsys.readouterr().out
    assert command.startswith("fairseq-train /")
    assert f"--user-dir {USER_DIR}" in command
    assert "$" not in command


def write(tmp_path, **options):
    config = {
        "data": "${MUSTC_ROOT}/en-de",
        "task": "speech_to_text",
        "arch": "s2t_residual_transformer_s",
        "criterion": "label_smoothed_cross_entropy_with_residual",
        **options,
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not ...}))
    return path


def test_values_and_overrides(capsys, tmp_path):
    path = write(
        tmp_path, max_tokens=100, **{"encoder-residual-diagonal": False, "report-accuracy": True, "adam-betas": "(0.9, 0.98)"}
    )
    overrides = [
        "max-tokens=200",
        "--dry-run",
        "optimizer=adam",
        "report-accuracy=false",
        "lr=[1e-3, 2e-3]",
        "max_update=7",
        "adam_betas=",
    ]
    assert main(["train", str(path), *overrides]) == 0
    command = capsys.readouterr().out
    assert "--max-tokens 200" in command
    assert "--no-encoder-residual-diagonal" in command
    assert "--report-accuracy" not in command
    assert "--adam-betas" not in command
    assert "--max-update 7" in command
    assert "--lr 1e-3,2e-3" in command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder-grup-size": 3}, "has no --encoder-grup-size .*; the nearest is encoder-group-size"),
        (
            {"arch": "s2t_residual_transformer_xss"},
            "'s2t_residual_transformer_xss' is not known; the nearest is s2t_residual_transformer_xs",
        ),
        ({"task": "speech_to_txt"}, "'speech_to_txt' is not known; the nearest is speech_to_text"),
        ({"ddp-backend": "ddp"}, "ddp-backend 'ddp' is not known"),
        ({"encoder-group-size": "three"}, "--encoder-group-size: invalid int value: 'three'"),
        ({"encoder-group-size": 13}, "group size 13 does not fit an encoder of 12 layers"),
        ({"encoder-sharing-pattern": "0,0,1"}, "names 3 layers, but the encoder has 12"),
        ({"data": "${NOWHERE}/en-de"}, "uses \\${NOWHERE}, which the environment does not set"),
        ({"data": ...}, "has no `data`"),
    ],
)
def test_refuses_what_fairseq_train_would_not_take(capsys, tmp_path, options, message):
    assert main(["train", str(write(tmp_path, **options)), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_refuses_bad_files(capsys, tmp_path):
    assert main(["train", str(tmp_path / "nowhere.yaml")]) == 2
    assert "nowhere.yaml cannot be read" in capsys.readouterr().err
    (tmp_path / "list.yaml").write_text("- 1")
    assert main(["train", str(tmp_path / "list.yaml")]) == 2
    assert "must be a mapping" in capsys.readouterr().err
    assert main(["train", str(write(tmp_path)), "nonsense"]) == 2
    assert "'nonsense' is not of the form key=value" in capsys.readouterr().err


def test_refuses_missing_data_and_wrong_columns(capsys, tmp_path):
    config = str(
        write(
            tmp_path, data=str(tmp_path), **{"config-yaml": "config_st.yaml", "train-subset": "train_st", "valid-subset": "dev_st"}
        )
    )
    assert main(["train", config]) == 2
    assert "config_st.yaml does not exist" in capsys.readouterr().err
    for name in ("config_st.yaml", "dev_st.tsv"):
        (tmp_path / name).write_text("id\taudio\tn_frames\ttgt_text\tspeaker\n")
    (tmp_path / "train_st.tsv").write_text("id\taudio\tframes\ttgt_text\tspeaker\n")
    assert main(["train", config]) == 2
    assert "train_st.tsv has no column `n_frames`" in capsys.readouterr().err


def test_refuses_a_teacher_that_is_not_there(capsys, tmp_path):
    assert main(["train", str(write(tmp_path)), "distill-from=nowhere.pt"]) == 2
    assert "distill-from nowhere.pt does not exist" in capsys.readouterr().err


def test_fine_tuning_takes_the_form_of_its_checkpoint(capsys, tmp_path):
    """Compression chooses it, often layer by layer, and no other fits."""
    flags = tiny_flags(encoder_sharing_pattern="0,0,1,1,1,1", encoder_residual_rank="3,3,3,3,2,2", activation_fn="gelu")
    torch.save({"cfg": {"model": flags}, "args": None, "model": {}}, tmp_path / "start.pt")
    config = write(tmp_path, **{"arch": "s2t_transformer_s", "load-pretrained-encoder-from": "asr.pt"})
    assert main(["train", str(config), f"finetune-from-model={tmp_path}/start.pt", "--dry-run"]) == 0
    command = " ".join(capsys.readouterr().out.replace("\\\n", "").split())
    assert "--arch s2t_residual_transformer_s" in command
    assert "--encoder-sharing-pattern 0,0,1,1,1,1 --encoder-residual-rank 3,3,3,3,2,2" in command
    assert "load-pretrained" not in command
    assert "--encoder-attention-heads 4 " in command, "which no shape of a weight shows"
    assert "--activation-fn gelu " in command
    assert "--encoder-normalize-before" in command
    assert main(["train", str(config), f"finetune-from-model={tmp_path}/none.pt", "--dry-run"]) == 2
    assert "none.pt does not exist" in capsys.readouterr().err
