"""`compress` and `expand` on small checkpoints, whose output fairseq's own commands then use."""

import errno
import json
import re
import shutil

import pytest
import torch
import yaml
from conftest import TINY, USER_DIR, cli, run, tiny_flags, tiny_model
from test_end_to_end import BIN, are_alike, config, generate, hypotheses

from residual_st.cli import main

DENSE = "s2t_transformer_s"


def save(path, arch=DENSE, **options):
    flags = tiny_flags(arch, tgt_dict_size=20, **options)
    cfg = {"model": flags, "task": flags, "common": {"user_dir": None}, "criterion": None}
    torch.save({"args": None, "cfg": cfg, "model": tiny_model(arch, **options).state_dict(), "last_optimizer_state": {}}, path)
    return str(path)


@pytest.fixture(scope="module")
def asr(data, tmp_path_factory):
    """The folder of a dense recognition model, `dense.pt`, after a few updates of fairseq-train."""
    folder = tmp_path_factory.mktemp("asr")
    options = {"config-yaml": "config_asr.yaml", "train-subset": "train_asr", "valid-subset": "dev_asr", "arch": DENSE}
    options |= {"criterion": "label_smoothed_cross_entropy_with_ctc", "max-update": 12, "save-interval-updates": 0}
    (folder / "asr.yaml").write_text(yaml.safe_dump(config(data, **options, save_dir="asr")))
    run(BIN / "residual-st", "train", "asr.yaml", cwd=folder)
    shutil.copy(folder / "asr" / "checkpoint_last.pt", folder / "dense.pt")
    return folder


def generate_without_the_plugin(data, checkpoint, cwd):
    """Run fairseq-generate without --user-dir, in a process that never imports residual_st."""
    flags = "--task speech_to_text --config-yaml config_asr.yaml --gen-subset tst-HE_asr --max-tokens 20000 --beam 2 --cpu"
    return run(BIN / "fairseq-generate", data, *flags.split(), "--max-len-b", 30, "--path", checkpoint, cwd=cwd).stdout


def same_hypotheses(first: str, second: str) -> bool:
    """Whether two outputs of fairseq-generate have equal texts and nearly equal scores."""
    assert len(hypotheses(first)) == 24
    return are_alike(hypotheses(first), hypotheses(second))


def test_calibrated_model_is_decoded_and_expanded(data, asr):
    flags = ["--group-size", 2, "--residual-rank", 4, "--calibration", data, "--calibration-batches", 2, "--refine-updates", 3]
    report = run(BIN / "residual-st", "compress", "dense.pt", "--output", "x.pt", *flags, "--json", cwd=asr).stdout
    figures = json.loads(report)
    assert figures["sharing_pattern"] == "0,0,1,1,2,2"
    assert figures["compressed"]["nll_loss"] == pytest.approx(figures["dense"]["nll_loss"], rel=0.2)
    assert len(figures["relative_errors"]) == 6
    described = json.loads(run(BIN / "residual-st", "inspect", "x.pt", "--json", cwd=asr).stdout)
    assert described["encoder_weight_fraction"] == pytest.approx(figures["encoder_weight_fraction"], abs=1e-3)
    run(BIN / "residual-st", "expand", "x.pt", "--output", "expanded.pt", cwd=asr)
    flags = torch.load(asr / "expanded.pt", weights_only=True)["cfg"]["model"]
    assert flags["arch"] == flags["_name"] == DENSE
    assert not any("residual" in name or "sharing" in name for name in flags)
    output = generate(data, "x.pt", asr, task="asr").stdout
    assert same_hypotheses(output, generate_without_the_plugin(data, "expanded.pt", asr))


def test_compressed_model_is_fine_tuned(data, asr):
    run(BIN / "residual-st", "compress", "dense.pt", "--output", "start.pt", "--encoder-weight-fraction", 0.7, cwd=asr)
    flags = torch.load(asr / "start.pt", weights_only=True)["cfg"]["model"]
    assert "/" in flags.encoder_residual_rank
    options = {"encoder-group-size": flags.encoder_group_size, "encoder-residual-rank": flags.encoder_residual_rank}
    options |= {
        "config-yaml": "config_asr.yaml",
        "train-subset": "train_asr",
        "valid-subset": "dev_asr",
        "save-interval-updates": 0,
    }
    for name, way in {
        "finetuned": {"finetune-from-model": "start.pt", "max-update": 2},
        "restored": {"restore-file": "start.pt", "reset-optimizer": True, "max-update": 14},
    }.items():
        (asr / f"{name}.yaml").write_text(yaml.safe_dump(config(data, **options, **way, save_dir=name)))
        done = run(BIN / "residual-st", "train", f"{name}.yaml", cwd=asr)
        assert re.search(r"oaded checkpoint start.pt|from.*start.pt", done.stdout + done.stderr)
        weights = [torch.load(path, weights_only=True)["model"] for path in (asr / "start.pt", asr / name / "checkpoint_last.pt")]
        assert list(weights[0]) == list(weights[1])
        assert not torch.equal(weights[0]["encoder.shared_weights.0.fc1"], weights[1]["encoder.shared_weights.0.fc1"])


def test_full_rank_keeps_the_hypotheses(data, asr):
    run(BIN / "residual-st", "compress", "dense.pt", "--output", "full.pt", "--residual-rank", TINY["encoder_embed_dim"], cwd=asr)
    run(BIN / "residual-st", "expand", "full.pt", "--output", "back.pt", cwd=asr)
    output = generate(data, "dense.pt", asr, task="asr").stdout
    assert same_hypotheses(output, generate(data, "full.pt", asr, task="asr").stdout)
    assert same_hypotheses(output, generate(data, "back.pt", asr, task="asr").stdout)


def test_compressed_decoder_works_in_every_command(data, asr):
    """Compressed with calibration, refined, fine-tuned, averaged, decoded in both inference modes, and expanded."""
    options = {"config-yaml": "config_asr.yaml", "train-subset": "train_asr", "valid-subset": "dev_asr", "decoder-layers": 4}
    options |= {"arch": DENSE, "save-interval-updates": 0}
    (asr / "deep.yaml").write_text(yaml.safe_dump(config(data, **options, max_update=4, save_dir="deep")))
    run(BIN / "residual-st", "train", "deep.yaml", cwd=asr)
    flags = ["--calibration", data, "--calibration-batches", 2, "--refine-updates", 2, "--json"]
    flags += ["--decoder-weight-fraction", 0.6, "--decoder-group-size", 2, "--residual-rank", 4]
    deep = "deep/checkpoint_last.pt"
    figures = json.loads(run(BIN / "residual-st", "compress", deep, "--output", "both.pt", *flags, cwd=asr).stdout)
    assert 0.55 < figures["decoder_weight_fraction"] <= 0.6
    assert figures["decoder_sharing_pattern"] == "0,0,1,1"
    assert set(figures["decoder_relative_errors"][0]) > {"encoder_attn.k_proj", "self_attn.k_proj", "fc1"}
    options |= {"arch": "s2t_residual_transformer_s"}
    (asr / "on.yaml").write_text(yaml.safe_dump(config(data, **options, max_update=4, save_dir="on")))
    run(BIN / "residual-st", "train", "on.yaml", "finetune-from-model=both.pt", cwd=asr)
    run(BIN / "residual-st", "average", "on/checkpoint_last.pt", "both.pt", "--output", "mean.pt", cwd=asr)
    table = run(BIN / "residual-st", "inspect", "mean.pt", cwd=asr).stdout
    assert re.search(r"decoder_groups +0 0 1 1\n", table)
    assert "residual / shared energy, decoder" in table
    run(BIN / "residual-st", "expand", "mean.pt", "--output", "mean_dense.pt", cwd=asr)
    expected = generate_without_the_plugin(data, "mean_dense.pt", asr)
    for mode in ("compact", "fast"):
        overrides = ["--model-overrides", f"{{'decoder_inference_mode': '{mode}', 'encoder_inference_mode': '{mode}'}}"]
        assert same_hypotheses(generate(data, "mean.pt", asr, *overrides, task="asr").stdout, expected)


def test_max_loss_finds_the_smallest_encoder(data, asr):
    options = ["--max-loss", "2%", "--calibration", data, "--calibration-batches", "4", "--json", "--force"]
    figures = json.loads(run(BIN / "residual-st", "compress", "dense.pt", "--output", "within.pt", *options, cwd=asr).stdout)
    kept = [probe["weight_fraction"] for probe in figures["sizes_tried"] if probe["loss_ratio"] <= 1.02]
    assert figures["encoder_weight_fraction"] <= min(kept) < 0.97
    inspected = json.loads(run(BIN / "residual-st", "inspect", "within.pt", "--json", cwd=asr).stdout)
    assert abs(inspected["encoder_weight_fraction"] - figures["encoder_weight_fraction"]) < 1e-3
    assert inspected["residual_rank"] == figures["residual_rank"]
    run(BIN / "residual-st", "expand", "within.pt", "--output", "within-dense.pt", "--force", cwd=asr)
    assert same_hypotheses(
        generate(data, "within.pt", asr, task="asr").stdout, generate_without_the_plugin(data, "within-dense.pt", asr)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, f"{text} is not between 0% and 100%; give a percentage such as 1% or 0.01")
            for text in ("0%", "100%", "-1%", "nan", "500")
        ),
        ("5", "5 without a percent sign means 500%; write 5% or 0.05"),
        ("1.5", "1.5 without a percent sign means 150%; write 1.5% or 0.015"),
        ("little", "'little' is not a percentage; give a percentage such as 1% or 0.01"),
    ],
)
def test_invalid_max_loss_is_refused(capsys, text, message):
    with pytest.raises(SystemExit, match="2"):
        main(["compress", "dense.pt", "--output", "x.pt", f"--max-loss={text}"])
    assert message in capsys.readouterr().err


def test_expand_names_a_stock_arch_for_the_papers_encoder(tmp_path):
    sizes = {"encoder_layers": 6, "encoder_embed_dim": 32}
    path = save(tmp_path / "paper.pt", "s2t_residual_transformer_paper", **sizes)
    assert main(["expand", path, "--output", str(tmp_path / "dense.pt")]) == 0
    flags = torch.load(tmp_path / "dense.pt", weights_only=True)["cfg"]["model"]
    assert (flags["arch"], flags["encoder_layers"]) == ("s2t_transformer", 6)


def test_size_limit_in_megabytes(tmp_path, capsys):
    path, output = save(tmp_path / "dense.pt"), str(tmp_path / "x.pt")
    assert main(["compress", path, "--output", output, "--encoder-mbytes", "0.2", "--json"]) == 0
    assert 0.19e6 < json.loads(capsys.readouterr().out)["encoder_bytes"] <= 0.2e6
    assert main(["compress", path, "--output", output, "--force", "--encoder-mbytes", "0.01"]) == 2
    assert "the size of the weights that cannot be shared" in capsys.readouterr().err
    assert main(["compress", path, "--output", output, "--force", "--encoder-mbytes", "50"]) == 2
    assert "--encoder-mbytes 50 must be at most 0." in capsys.readouterr().err


def test_compress_prints_a_table_of_sizes(tmp_path, capsys):
    assert main(["compress", save(tmp_path / "dense.pt"), "--output", str(tmp_path / "x.pt")]) == 0
    table = capsys.readouterr().out
    assert "self_attn.out_proj" in table
    assert "whole model, bytes" in table


def test_existing_output_is_kept_without_force(tmp_path, capsys):
    path, output = save(tmp_path / "dense.pt"), tmp_path / "x.pt"
    output.write_text("precious")
    assert main(["compress", path, "--output", str(output)]) == 2
    assert "x.pt already exists" in capsys.readouterr().err
    assert output.read_text() == "precious"
    assert main(["compress", path, "--output", str(output), "--force"]) == 0
    assert main(["expand", str(output), "--output", path]) == 2
    assert "dense.pt already exists" in capsys.readouterr().err


def test_full_disk_leaves_no_partial_output(tmp_path, capsys, monkeypatch):
    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = save(tmp_path / "dense.pt")
    monkeypatch.setattr(torch, "save", full)
    assert main(["compress", path, "--output", str(tmp_path / "x.pt")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["dense.pt"]


@pytest.mark.parametrize(
    ("command", "arch", "flags", "message"),
    [
        ("compress", "s2t_residual_transformer_s", [], "is already a residual checkpoint (s2t_residual_transformer_s)"),
        ("expand", DENSE, [], "is already dense (s2t_transformer_s)"),
        ("compress", DENSE, ["--encoder-weight-fraction", "0.05"], "is too small for these layers; the smallest form has 0."),
        ("compress", DENSE, ["--encoder-weight-fraction", "0"], "must be a number above 0 and at most 1"),
        ("compress", DENSE, ["--weight-fraction", "0"], "must be a number above 0 and at most 1"),
        ("compress", DENSE, ["--residual-rank", "40"], "residual rank 40 does not fit self_attn.k_proj"),
        ("compress", DENSE, ["--group-size", "9"], "group size 9 does not fit a stack of 6 layers"),
        ("compress", DENSE, ["--calibration", "nowhere"], "does not exist; give the data"),
        ("compress", DENSE, ["--calibration", "."], "does not name its training data"),
        ("compress", DENSE, ["--calibration-batches", "0"], "must be at least 1"),
        ("compress", DENSE, ["--refine-updates", "3"], "needs --calibration DATA"),
        ("compress", DENSE, ["--max-loss", "1%"], "needs --calibration DATA"),
        ("compress", DENSE, ["--max-loss", "1%", "--decoder-group-size", "2"], "--max-loss applies to the encoder alone"),
        ("compress", DENSE, ["--device", "gpu"], "it must be cpu, or cuda where torch sees a GPU"),
        ("compress", DENSE, ["--device", "meta"], "--device meta cannot be used (it stores no values)"),
        ("compress", DENSE, ["--correction-batches", "3"], "needs --calibration DATA"),
    ],
)
def test_wrong_usage_is_refused(tmp_path, capsys, command, arch, flags, message):
    path = save(
        tmp_path / "given.pt",
        arch,
        **({"task": "speech_to_text", "config_yaml": "c", "train_subset": "a", "valid_subset": "b"} if "nowhere" in flags else {}),
    )
    assert main([command, path, "--output", str(tmp_path / "x.pt"), *flags]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_refused(tmp_path, capsys):
    path = save(tmp_path / "dense.pt")
    for command in (["compress", path], ["cache-teacher", path, "--data", str(tmp_path)]):
        assert main([*command, "--output", str(tmp_path / "x"), "--device", "cuda"]) == 2
        assert "--device cuda cannot be used (" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_interrupted_command_says_so(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("residual_st.cli.compress_model.compress", interrupted)
    assert main(["compress", save(tmp_path / "dense.pt"), "--output", str(tmp_path / "x.pt")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "residual-st compress: interrupted"
    assert not (tmp_path / "x.pt").exists()


def test_flag_of_an_earlier_release_names_its_replacement(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["compress", str(tmp_path / "given.pt"), "--output", str(tmp_path / "x.pt"), "--refine-batches", "3"])
    assert exit.value.code == 2
    assert "--refine-batches 3 is no longer a flag: give --correction-batches" in capsys.readouterr().err


def test_weights_that_do_not_match_their_flags_are_refused(tmp_path, capsys):
    flags = tiny_flags(tgt_dict_size=20)
    flags.arch = "s2t_conformer"
    torch.save({"args": None, "cfg": {"model": flags}, "model": tiny_model(DENSE).state_dict()}, tmp_path / "conformer.pt")
    assert main(["compress", str(tmp_path / "conformer.pt"), "--output", str(tmp_path / "x.pt")]) == 2
    assert "conformer.pt do not match its flags" in capsys.readouterr().err


def test_calibration_data_with_another_dictionary_is_refused(data, asr, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "other", symlinks=True, ignore=shutil.ignore_patterns("data", "*.zip"))
    config_file = tmp_path / "other" / "config_asr.yaml"
    config_file.write_text((data / "config_st.yaml").read_text())
    command = ["compress", str(asr / "dense.pt"), "--output", str(tmp_path / "x.pt"), "--calibration", str(tmp_path / "other")]
    assert main(command) == 2
    assert "give the data that it was trained on" in capsys.readouterr().err


def test_impossible_form_is_refused_before_calibration(data, asr, tmp_path, capsys, monkeypatch):
    def too_late(*_args, **_kwargs):
        raise AssertionError("the data was read before the form was checked")

    monkeypatch.setattr("residual_st.fairseq.training_data.TrainingData", too_late)
    for flags, message in (
        (["--residual-rank", "500"], "residual rank 500 does not fit"),
        (["--group-size", "0"], "group size"),
        (["--encoder-weight-fraction", "0.01"], "is too small for these layers"),
    ):
        arguments = ["compress", str(asr / "dense.pt"), "--output", str(tmp_path / "x.pt"), "--calibration", str(data), *flags]
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_dense_encoder_of_the_residual_arch_is_compressed(tmp_path, capsys):
    dense = {"encoder_group_size": 1, "encoder_residual_rank": 0, "encoder_residual_diagonal": False}
    path = save(tmp_path / "dense.pt", "s2t_residual_transformer_s", **dense)
    assert main(["compress", path, "--output", str(tmp_path / "shared.pt"), "--residual-rank", "3"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "shared.pt"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["arch"] == "s2t_residual_transformer_s"
    assert figures["groups"] == [0, 0, 0, 1, 1, 1]


def test_checkpoint_of_a_removed_arch_names_its_replacement(data, asr, tmp_path):
    state = torch.load(asr / "dense.pt", weights_only=True)
    state["cfg"]["model"].arch = state["cfg"]["model"]._name = "s2t_low_rank_transformer_s"
    torch.save(state, tmp_path / "old.pt")
    sentence = f"{tmp_path}/old.pt has --arch s2t_low_rank_transformer_s, which only version 0.1 supports; the same model can be "
    sentence += "trained with --arch s2t_residual_transformer --encoder-group-size 1 --encoder-residual-rank =R\n"
    for arguments in (
        ["inspect", tmp_path / "old.pt"],
        ["compress", tmp_path / "old.pt", "--output", tmp_path / "x.pt"],
        ["expand", tmp_path / "old.pt", "--output", tmp_path / "x.pt"],
        ["train", asr / "asr.yaml", f"finetune-from-model={tmp_path}/old.pt"],
    ):
        result = cli(*arguments, check=False)
        assert result.returncode == 2
        assert result.stderr == f"residual-st {arguments[0]}: {sentence}"
    flags = ["--user-dir", USER_DIR, "--task", "speech_to_text", "--config-yaml", "config_asr.yaml", "--cpu"]
    flags += ["--gen-subset", "tst-HE_asr", "--path", tmp_path / "old.pt"]
    result = run(BIN / "fairseq-generate", data, *flags, check=False)
    assert result.returncode
    assert result.stderr.endswith(f"InputError: {sentence}")
