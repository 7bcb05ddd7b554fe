import os
import re
import shlex

import pytest
import torch
import yaml
from conftest import ROOT, TINY, USER_DIR, linked, tiny_flags, tiny_model
from console import command

from residual_st.cli import main
from residual_st.evaluation.logs import read_log

CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if not path.name.startswith("simulstream_"))


@pytest.fixture(autouse=True)
def corpus_folder(monkeypatch):
    monkeypatch.setenv("MUSTC_ROOT", "/mustc")
    monkeypatch.setenv("DEMO_ROOT", "/demo")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_config_is_valid(capsys, config):
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


def test_config_values_and_overrides_become_flags(capsys, tmp_path):
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
        ({"encoder-group-size": 13}, "group size 13 does not fit a stack of 12 layers"),
        ({"encoder-sharing-pattern": "0,0,1"}, "names 3 layers, but the stack has 12"),
        ({"data": "${NOWHERE}/en-de"}, "uses \\${NOWHERE}, but this environment variable is not set"),
        ({"data": ...}, "has no `data`"),
    ],
)
def test_flags_that_fairseq_train_would_reject_are_refused(capsys, tmp_path, options, message):
    assert main(["train", str(write(tmp_path, **options)), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_unreadable_config_is_refused(capsys, tmp_path):
    assert main(["train", str(tmp_path / "nowhere.yaml")]) == 2
    assert "nowhere.yaml cannot be read" in capsys.readouterr().err
    (tmp_path / "list.yaml").write_text("- 1")
    assert main(["train", str(tmp_path / "list.yaml")]) == 2
    assert "must contain a mapping" in capsys.readouterr().err
    assert main(["train", str(write(tmp_path)), "nonsense"]) == 2
    assert "'nonsense' must have the form key=value" in capsys.readouterr().err


def test_missing_data_and_missing_columns_are_refused(capsys, tmp_path, data):
    names = {"config-yaml": "config_st.yaml", "train-subset": "train_st", "valid-subset": "dev_st"}
    assert main(["train", str(write(tmp_path, data=str(tmp_path), **names))]) == 2
    assert "config_st.yaml does not exist" in capsys.readouterr().err
    manifest = linked(data, tmp_path / "columns", "train_st.tsv")
    manifest.write_text("id\taudio\tframes\ttgt_text\tspeaker\n")
    assert main(["train", str(write(tmp_path, data=str(manifest.parent), **names))]) == 2
    assert "train_st.tsv has no column `n_frames`" in capsys.readouterr().err


def test_missing_teacher_is_refused(capsys, tmp_path):
    assert main(["train", str(write(tmp_path)), "distill-from=nowhere.pt"]) == 2
    assert "distill-from nowhere.pt does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "override",
    ["save-dir=@home", "save-dir=[x", "wandb-project=a: b", "save-dir=12:30:45", "save-dir=1e3"],
)
def test_override_text_is_passed_unchanged(capsys, tmp_path, override):
    assert main(["train", str(write(tmp_path)), override, "--dry-run"]) == 0
    command = shlex.split(capsys.readouterr().out.replace("\\\n", ""))
    key, _, value = override.partition("=")
    assert command[command.index(f"--{key}") + 1] == value


def test_flag_without_a_value_accepts_only_true_or_false(capsys, tmp_path):
    assert main(["train", str(write(tmp_path)), "report-accuracy=maybe", "--dry-run"]) == 2
    assert "report-accuracy=maybe" in capsys.readouterr().err


def start(tmp_path, arch="s2t_residual_transformer_s", **options):
    torch.save({"cfg": {"model": tiny_flags(arch, **options)}, "args": None, "model": {}}, tmp_path / "start.pt")
    return f"finetune-from-model={tmp_path}/start.pt"


def test_dense_checkpoint_is_refused_for_a_residual_arch(capsys, tmp_path):
    config = str(write(tmp_path))
    assert main(["train", config, start(tmp_path, "s2t_transformer_s"), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "start.pt is a dense checkpoint (s2t_transformer_s), but the config has arch=s2t_residual_transformer_s" in error
    assert "residual-st compress" in error
    assert main(["train", config, start(tmp_path, "s2t_transformer_s"), "arch=s2t_transformer_s", "--dry-run"]) == 0


def test_override_that_contradicts_the_checkpoint_is_refused(capsys, tmp_path):
    assert main(["train", str(write(tmp_path)), start(tmp_path), "encoder-attention-heads=2", "--dry-run"]) == 2
    assert "encoder-attention-heads=2 does not fit" in capsys.readouterr().err


def test_form_that_no_flag_can_express_is_refused(capsys, tmp_path):
    assert main(["train", str(write(tmp_path)), start(tmp_path, encoder_normalize_before=False), "--dry-run"]) == 2
    assert "it has encoder_normalize_before=False, this model encoder_normalize_before=True" in capsys.readouterr().err


def whole(tmp_path, data, **options):
    """A complete config of a small model."""
    sizes = {name.replace("_", "-"): value for name, value in TINY.items()}
    files = {"config-yaml": "config_st.yaml", "train-subset": "train_st", "valid-subset": "dev_st"}
    return str(write(tmp_path, **{"data": str(data), **files, **sizes, **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder-residual-rank": 40}, "residual rank 40 does not fit self_attn.k_proj, whose smaller side is 32"),
        ({"encoder-attention-heads": 5}, "encoder_embed_dim=32 must be a multiple of encoder_attention_heads=5"),
        ({"load-pretrained-encoder-from": "nowhere.pt"}, "load-pretrained-encoder-from nowhere.pt does not exist"),
        ({"load-pretrained-decoder-from": "{tmp}/text.pt"}, "text.pt cannot be read as a checkpoint"),
        (
            {"load-pretrained-encoder-from": "{tmp}/heads.pt"},
            "it has encoder_attention_heads=2, this model",
        ),
        ({"distill-from": "{tmp}/text.pt"}, "text.pt cannot be read as a checkpoint"),
        ({"distill-from": "{tmp}/heads.pt"}, "heads.pt has 20 words, but the student's has 150"),
        ({"distill-weight": 0.7}, "need a teacher, given by --distill-from"),
    ],
)
def test_errors_that_fairseq_train_would_find_later_are_refused_before_the_start(capsys, tmp_path, data, options, message):
    (tmp_path / "text.pt").write_text("no checkpoint")
    heads = {"encoder_attention_heads": 2}
    torch.save({"model": tiny_model(**heads).state_dict(), "cfg": {"model": tiny_flags(**heads)}}, tmp_path / "heads.pt")
    options = {name: value.format(tmp=tmp_path) if isinstance(value, str) else value for name, value in options.items()}
    assert main(["train", whole(tmp_path, data, **options)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
@pytest.mark.parametrize("arch", ["s2t_transformer_s", "s2t_residual_transformer_s"])
def test_valid_run_is_started(capsys, monkeypatch, tmp_path, data, arch, ctc_weight):
    """From a dense or shared encoder with another dictionary. fairseq-train replaces this process."""
    started = []
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.execv", lambda program, arguments: started.append(arguments) or 0)
    weights = tiny_model(arch, ctc_weight=ctc_weight).state_dict()
    torch.save({"model": weights, "cfg": {"model": tiny_flags(arch)}}, tmp_path / "start.pt")
    options = {"load-pretrained-encoder-from": str(tmp_path / "start.pt"), "ctc-weight": ctc_weight}
    assert main(["train", whole(tmp_path, data, **options)]) == 0
    assert started[0][1:4] == ["-m", "fairseq_cli.train", str(data)]
    assert os.environ["GOMP_SPINCOUNT"] == "10000"  # waiting threads leave their cores to other programs


def test_missing_vocabulary_is_refused(capsys, tmp_path, data):
    config = linked(data, tmp_path / "moved", "config_st.yaml")
    text = re.sub("sentencepiece_model: .*", "sentencepiece_model: /gone/spm.model", (data / "config_st.yaml").read_text())
    config.write_text(text)
    assert main(["train", whole(tmp_path, config.parent)]) == 2
    assert "/gone/spm.model" in capsys.readouterr().err


def test_utterances_that_fairseq_train_would_skip_or_reject_are_reported(capsys, monkeypatch, tmp_path, data):
    monkeypatch.setattr("os.execv", lambda program, arguments: 0)
    leave_out = {"skip-invalid-size-inputs-valid-test": "true"}
    assert main(["train", whole(tmp_path, data, **{"max-source-positions": 250, **leave_out})]) == 0
    said = capsys.readouterr().err
    assert re.search(r"\d+ of 124 utterances of train_st are longer than 250 frames .* and are skipped", said)
    for options, message in (
        ({"max-source-positions": 250}, "of dev_st are longer than 250 frames .*set skip-invalid-size-inputs-valid-test"),
        ({"max-source-positions": 20}, "124 of 124 utterances of train_st .*: none remains"),
    ):
        assert main(["train", whole(tmp_path, data, **options)]) == 2
        assert re.search(message, capsys.readouterr().err)
    manifest = linked(data, tmp_path / "samples", "train_st.tsv")
    header, *rows = (data / "train_st.tsv").read_text().split("\n")[:-1]
    rows = [row.split("\t") for row in rows]
    manifest.write_text("\n".join([header, *("\t".join([*row[:2], str(160 * int(row[2])), *row[3:]]) for row in rows)]) + "\n")
    assert main(["train", whole(tmp_path, manifest.parent)]) == 2
    assert f"n_frames of {rows[0][0]} (row 1) is {160 * int(rows[0][2])}, but must be {rows[0][2]}" in capsys.readouterr().err


def test_fine_tuning_uses_the_form_of_its_checkpoint(capsys, tmp_path):
    """Compression chooses the form, often per layer, and only that form fits."""
    flags = tiny_flags(encoder_sharing_pattern="0,0,1,1,1,1", encoder_residual_rank="3,3,3,3,2,2", activation_fn="gelu")
    torch.save({"cfg": {"model": flags}, "args": None, "model": {}}, tmp_path / "start.pt")
    config = write(tmp_path, **{"arch": "s2t_transformer_s", "load-pretrained-encoder-from": "asr.pt"})
    assert main(["train", str(config), f"finetune-from-model={tmp_path}/start.pt", "--dry-run"]) == 0
    command = " ".join(capsys.readouterr().out.replace("\\\n", "").split())
    assert "--arch s2t_residual_transformer_s" in command
    assert "--encoder-sharing-pattern 0,0,1,1,1,1 --encoder-residual-rank 3,3,3,3,2,2" in command
    assert "load-pretrained" not in command
    assert "--encoder-attention-heads 4 " in command, "the number of heads, which no weight shape shows"
    assert "--activation-fn gelu " in command
    assert "--encoder-normalize-before" in command
    assert main(["train", str(config), f"finetune-from-model={tmp_path}/none.pt", "--dry-run"]) == 2
    assert "none.pt does not exist" in capsys.readouterr().err


def test_log_of_a_run_contains_each_line_once(tmp_path, data):
    options = {"save-dir": str(tmp_path / "run"), "max-tokens": 8000, "optimizer": "adam", "update-freq": 1000, "max-update": 2}
    options |= {
        "log-format": "simple",
        "log-interval": 1,
        "cpu": True,
        "num-workers": 0,
        "disable-validation": True,
        "no-save": True,
    }  # an epoch is one update
    command("residual-st", "train", whole(tmp_path, data, **options), log=tmp_path / "out")
    lines = [line for line in (tmp_path / "run" / "train.log").read_text().splitlines() if " | num_updates " in line]
    assert len(lines) == len(set(lines)) == 2, lines
    assert read_log(tmp_path / "run" / "train.log").training["nll_loss"][-1][0] == 2
