"""README's commands as a user types them, outside of the checkout."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from conftest import BIN, TINY, USER_DIR, run, same_weights, tiny_model, to_flags

from residual_st.errors import InputError
from residual_st.fairseq.s2t_residual_transformer import S2TResidualTransformerModel

SPEECH = Path(__file__).parent / "speech" / "arctic_a0007.wav"


def config(data, **options):
    return {
        "data": str(data),
        "config-yaml": "config_st.yaml",
        "train-subset": "train_st",
        "valid-subset": "dev_st",
        "task": "speech_to_text",
        "arch": "s2t_residual_transformer_s",
        "criterion": "label_smoothed_cross_entropy_with_residual",
        "label-smoothing": 0.1,
        "ctc-weight": 0.3,
        "optimizer": "adam",
        "lr": 2e-3,
        "max-tokens": 4000,
        "num-workers": 1,
        "cpu": True,
        "save-dir": "run",
        "max-update": 6,
        "save-interval-updates": 3,
        **{name.replace("_", "-"): value for name, value in {**TINY, **options}.items()},
    }


def generate(data, checkpoint, cwd, *flags, task="st", check=True):
    options = {
        "user_dir": USER_DIR,
        "task": "speech_to_text",
        "config_yaml": f"config_{task}.yaml",
        "gen_subset": f"tst-HE_{task}",
        "path": checkpoint,
        "max_tokens": 20000,
        "beam": 2,
        "max_len_b": 30,
        "cpu": True,
        "scoring": "sacrebleu",
    }
    return run(BIN / "fairseq-generate", data, *to_flags(options), *flags, cwd=cwd, check=check)


def hypotheses(output: str) -> dict[str, tuple[float, str]]:
    """Sentence -> score and text."""
    lines = [line.split("\t", 2) for line in output.splitlines() if line.startswith("H-")]
    return {name: (float(score), text) for name, score, text in lines}


def are_alike(first: dict, second: dict, tolerance: float = 1e-4) -> bool:
    """Whether texts are equal and scores nearly equal: the way to multiply by W is chosen by time, which changes last digits."""
    return first.keys() == second.keys() and all(
        text == second[name][1] and abs(score - second[name][0]) <= tolerance for name, (score, text) in first.items()
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, options in {"residual": {}, "dense": {"arch": "s2t_transformer_s"}}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config(data, **options, save_dir=name)))
        run(BIN / "residual-st", "train", f"{name}.yaml", cwd=folder)
        run(BIN / "residual-st", "average", name, "--num-update-checkpoints", "2", "--output", f"{name}.pt", cwd=folder)
    return folder


def test_train_average_generate_and_score(data, trained):
    output = generate(data, "residual.pt", trained).stdout
    assert len(hypotheses(output)) == 24
    assert re.search(r"Generate tst-HE_st with beam=2: BLEU = \d", output)


def test_finished_run_is_not_continued(trained):
    last = trained / "residual" / "checkpoint_last.pt"
    before = last.stat().st_mtime_ns
    assert "already contains a run of 6 updates" in run(BIN / "residual-st", "train", "residual.yaml", cwd=trained).stdout
    assert last.stat().st_mtime_ns == before


def test_generate_needs_only_the_checkpoint(data, trained, tmp_path):
    """Neither the folder nor the config of the run, and no particular current folder."""
    shutil.copy(trained / "residual.pt", tmp_path / "copy.pt")
    first = hypotheses(generate(data, "residual.pt", trained).stdout)
    assert are_alike(hypotheses(generate(data, tmp_path / "copy.pt", "/").stdout), first)


def test_inference_modes_give_the_same_texts(data, trained):
    compact, fast = (
        hypotheses(generate(data, "residual.pt", trained, "--model-overrides", str({"encoder_inference_mode": mode})).stdout)
        for mode in ("compact", "fast")
    )
    assert are_alike(compact, fast, tolerance=1e-3)


def test_hub_interface_gives_the_texts_of_generate(data, trained, tmp_path):
    from residual_st.errors import InputError

    hub = S2TResidualTransformerModel.from_pretrained(str(trained), "residual.pt", str(data), config_yaml="config_st.yaml")
    segment = yaml.safe_load((data / "data/tst-HE/txt/tst-HE.yaml").read_text())[0]
    start, frames = int(segment["offset"] * 16_000), int(segment["duration"] * 16_000)
    samples, rate = soundfile.read(data / "data/tst-HE/wav" / segment["wav"], start=start, frames=frames)
    soundfile.write(tmp_path / "utterance.wav", samples, rate, subtype="PCM_16")
    translation = hub.predict(str(tmp_path / "utterance.wav"))
    output = generate(data, "residual.pt", trained, "--beam", "5", "--max-len-b", "200").stdout
    assert translation in {line.split("\t")[2] for line in output.splitlines() if line.startswith("D-")}
    assert hub.predict(torch.from_numpy(samples).float().unsqueeze(0)) == translation
    with pytest.raises(InputError, match="nowhere.wav cannot be read as audio"):
        hub.predict("nowhere.wav")


def test_code_in_a_checkpoint_is_not_run(data, trained, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    state = torch.load(trained / "residual.pt", weights_only=True)
    torch.save({**state, "extra": Bomb()}, tmp_path / "bomb.pt")
    result = generate(data, tmp_path / "bomb.pt", tmp_path, check=False)
    assert result.returncode != 0
    assert "weights_only" in result.stderr
    for command in (["inspect", "bomb.pt"], ["average", "bomb.pt", "--output", "out.pt"]):
        result = run(BIN / "residual-st", *command, cwd=tmp_path)
        assert "bomb.pt: not read, because reading them would run code: posix.system" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bomb.pt", "out.pt"]
    assert "extra" not in torch.load(tmp_path / "out.pt", weights_only=True)
    first = hypotheses(generate(data, "residual.pt", trained).stdout)
    assert are_alike(hypotheses(generate(data, "out.pt", tmp_path).stdout), first)


def test_translation_starts_from_a_recognition_encoder(fairseq_train, data, tmp_path):
    criterion = {"criterion": "label_smoothed_cross_entropy_with_residual"}
    fairseq_train(data, tmp_path / "asr", task="asr", max_update=3, ctc_weight=0.3, **criterion)
    asr = tmp_path / "asr" / "checkpoint_last.pt"
    wer = ["--scoring", "wer", "--wer-tokenizer", "13a", "--wer-lowercase", "--wer-remove-punct"]
    assert re.search(r"Generate tst-HE_asr with beam=2: WER: \d", generate(data, asr, tmp_path, *wer, task="asr").stdout)
    cold = fairseq_train(data, tmp_path / "cold", max_update=1, **criterion)
    warm = fairseq_train(data, tmp_path / "warm", max_update=1, load_pretrained_encoder_from=asr, **criterion)
    assert warm != cold
    asr.unlink()
    assert "BLEU" in generate(data, tmp_path / "warm" / "checkpoint_last.pt", tmp_path).stdout


@pytest.mark.parametrize("stop", [{"max_update": 1}, {"max_update": 7}, {"max_epoch": 1}], ids=str)
def test_resumed_training_equals_uninterrupted_training(fairseq_train, data, tmp_path, stop):
    """Stopped within an epoch or between epochs, later losses are bitwise equal, including SpecAugment's masks."""
    options = {
        "criterion": "label_smoothed_cross_entropy_with_residual",
        "encoder_residual_rank": 3,
        "config_yaml": "config_st.yaml",
    }
    whole = fairseq_train(data, tmp_path / "whole", max_update=18, **options)
    first = fairseq_train(data, tmp_path / "parts", **stop, **options)
    rest = fairseq_train(data, tmp_path / "parts", max_update=18, **options)
    assert 0 < len(first) < len(whole)
    assert first + rest == whole
    last = [torch.load(tmp_path / run / "checkpoint_last.pt", weights_only=True)["model"] for run in ("whole", "parts")]
    assert same_weights(*last)


def test_resuming_with_another_plan_is_refused(fairseq_train, data, tmp_path, caplog):
    fairseq_train(data, tmp_path / "run", max_update=1)
    with pytest.raises(
        InputError, match="shares encoder.* in groups 0,0,0,1,1,1, this model shares encoder.* in groups 0,1,0,1,0,1"
    ):
        fairseq_train(data, tmp_path / "run", max_update=2, encoder_sharing_pattern="cycle")


def test_moving_average_of_the_weights_is_trained_saved_and_used(fairseq_train, data, tmp_path):
    """fairseq averages every entry of the state dict, including the plan."""
    options = {"max_update": 4, "criterion": "label_smoothed_cross_entropy_with_residual", "store_ema": True, "ema_decay": 0.5}
    form = {"decoder_layers": 2, "decoder_group_size": 2, "decoder_residual_rank": 2}
    options |= form
    fairseq_train(data, tmp_path / "run", **options)
    state = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    ema = state["extra_state"]["ema"]
    assert set(ema) == set(state["model"])
    for part in ("encoder", "decoder"):
        assert not torch.equal(ema[f"{part}.shared_weights.0.fc1"], state["model"][f"{part}.shared_weights.0.fc1"])
    model = tiny_model(**form)
    of_words = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")  # another dictionary
    model.load_state_dict({name: value[:20] if name in of_words else value for name, value in ema.items()})
    fairseq_train(data, tmp_path / "run", **{**options, "max_update": 6})
    for epoch in (1, 2):
        shutil.copy(tmp_path / "run" / "checkpoint_last.pt", tmp_path / f"checkpoint{epoch}.pt")
    run(BIN / "residual-st", "average", tmp_path, "--num-epoch-checkpoints", 2, "--output", tmp_path / "mean.pt")
    assert "ema" not in torch.load(tmp_path / "mean.pt", weights_only=True)["extra_state"]
    assert "BLEU" in generate(data, tmp_path / "mean.pt", tmp_path).stdout


def test_old_checkpoint_with_an_integer_plan_is_read(fairseq_train, data, tmp_path):
    fairseq_train(data, tmp_path, max_update=1)
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    groups = state["model"]["encoder.shared_weights.layer_groups"]
    state["model"]["encoder.shared_weights.layer_groups"] = groups.long()
    torch.save(state, tmp_path / "old.pt")
    run(BIN / "residual-st", "expand", "old.pt", "--output", "dense.pt", cwd=tmp_path)
    assert fairseq_train(data, tmp_path / "on", max_update=2, restore_file=tmp_path / "old.pt")


@pytest.mark.parametrize("kernels", ["1,1", "5,1", "3"])
def test_small_kernels_train_and_translate(fairseq_train, data, tmp_path, kernels):
    fairseq_train(data, tmp_path, max_update=1, conv_kernel_sizes=kernels)
    hub = S2TResidualTransformerModel.from_pretrained(str(tmp_path), "checkpoint_last.pt", str(data), config_yaml="config_st.yaml")
    assert isinstance(hub.predict(SPEECH), str)


def test_symlink_with_another_name_to_the_user_dir_works(data, tmp_path):
    (tmp_path / "plugin").symlink_to(USER_DIR)
    flags = {
        **TINY,
        "arch": "s2t_residual_transformer_s",
        "task": "speech_to_text",
        "max_update": 1,
        "max_tokens": 4000,
        "cpu": True,
    }
    flags |= {"config_yaml": "config_st.yaml", "train_subset": "train_st", "valid_subset": "dev_st", "save_dir": "run"}
    flags |= {"optimizer": "adam", "criterion": "label_smoothed_cross_entropy_with_residual", "num_workers": 0}
    run(BIN / "fairseq-train", data, "--user-dir", "plugin", *to_flags(flags), cwd=tmp_path)
    assert (tmp_path / "run" / "checkpoint_last.pt").exists()


def test_user_dir_may_be_given_by_any_path(data, tmp_path):
    shown = run(BIN / "residual-st", "user-dir", cwd=tmp_path).stdout.strip()
    assert Path(shown) == USER_DIR
    flags = to_flags(
        {**TINY, "arch": "s2t_residual_transformer_s", "task": "speech_to_text", "max_update": 1, "max_tokens": 4000, "cpu": True}
    )
    flags += to_flags(
        {
            "config_yaml": "config_st.yaml",
            "train_subset": "train_st",
            "valid_subset": "dev_st",
            "save_dir": tmp_path,
            "no_save": True,
        }
    )
    flags += to_flags({"optimizer": "adam", "criterion": "label_smoothed_cross_entropy_with_residual", "num_workers": 0})
    flags += to_flags({"data_buffer_size": 0})  # no reading thread after the end of the run
    run(BIN / "fairseq-train", data, "--user-dir", "residual_st", *flags, cwd=USER_DIR.parent)
    code = f"import residual_st.models, sys; sys.argv = {['fairseq-train', str(data), '--user-dir', shown, *flags]!r}\n"
    code += "from fairseq_cli.train import cli_main; cli_main()"
    assert "has already been imported" in run(sys.executable, "-c", code, cwd=tmp_path).stderr
