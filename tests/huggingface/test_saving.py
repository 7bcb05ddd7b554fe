"""Shared models through transformers' own reading and writing: refused as ordinary ones, saved and trained on by its own tools."""

import copy
import json
import shutil

import pytest
import torch
from conftest import cli

transformers = pytest.importorskip("residual_st.huggingface")
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_models import make, outputs  # noqa: E402
from transformers import (  # noqa: E402
    AutoModel,
    AutoModelForSpeechSeq2Seq,
    Trainer,
    TrainingArguments,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
    pipeline,
)

from residual_st.compression import compress  # noqa: E402
from residual_st.errors import InputError  # noqa: E402

FORM = ["--group-size", "2", "--residual-rank", "3"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A compressed folder, beside the dense one."""
    folder = tmp_path_factory.mktemp("saving")
    make("whisper", folder / "dense")
    cli("compress", folder / "dense", "--output", folder / "shared", *FORM)
    return folder / "shared"


def words(model):
    features = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(5))
    return model.generate(features.to(model.dtype), max_new_tokens=8, num_beams=2)


def refused(folder):
    """By everything of transformers' that reads ordinary weights."""
    readers = (AutoModel, AutoModelForSpeechSeq2Seq, WhisperForConditionalGeneration, WhisperModel, WhisperForAudioClassification)
    for reader in readers:
        with pytest.raises(RuntimeError, match="mismatch"):
            reader.from_pretrained(folder)


def test_ordinary_readers_refuse_a_shared_folder(shared):
    refused(shared)
    with pytest.raises((RuntimeError, ValueError), match="mismatch"):
        pipeline("automatic-speech-recognition", model=str(shared), tokenizer=str(shared))


def test_a_model_that_is_shared_in_place_and_saved(shared, tmp_path):
    """The ordinary class, compressed from Python, and its own `save_pretrained`."""
    model = WhisperForConditionalGeneration.from_pretrained(shared.with_name("dense")).eval()
    compress(model, group_size=2, rank=3)
    model.save_pretrained(tmp_path / "saved")
    refused(tmp_path / "saved")
    again = transformers.load(tmp_path / "saved")
    assert type(again) is WhisperForConditionalGeneration
    assert torch.equal(outputs(again), outputs(model)) and torch.equal(words(again), words(model))


def test_folders_of_release_0_1_0_are_read_and_made_safe(shared, tmp_path):
    """They hold no marks, so that an ordinary reader takes them and draws what it does not find."""
    shutil.copytree(shared, tmp_path / "old")
    weights = {name: value for name, value in load_file(shared / "model.safetensors").items() if value.dtype != torch.uint8}
    save_file(weights, tmp_path / "old" / "model.safetensors", {"format": "pt"})
    model = transformers.load(tmp_path / "old")
    assert torch.equal(outputs(model), outputs(transformers.load(shared)))
    model.save_pretrained(tmp_path / "old")
    refused(tmp_path / "old")
    assert torch.equal(words(transformers.load(tmp_path / "old")), words(model))


@pytest.mark.parametrize("change", [lambda model: model, copy.deepcopy, lambda model: model.bfloat16(), lambda model: model.half()])
def test_saved_again_by_its_own_method(shared, tmp_path, change):
    """Twice over the same folder, in shards, by a given state dict; the commands read the result."""
    model = change(transformers.load(shared))
    expected, found = outputs(model), words(model)
    for options in ({}, {}, {"max_shard_size": "50KB"}, {"state_dict": model.state_dict()}):
        if options:
            shutil.rmtree(tmp_path / "again")
        model.save_pretrained(tmp_path / "again", **options)
        again = transformers.load(tmp_path / "again")
        assert again.dtype == model.dtype
        assert torch.equal(outputs(again), expected) and torch.equal(words(again), found)
    refused(tmp_path / "again")
    shutil.copy(shared / "preprocessor_config.json", tmp_path / "again")
    cli("expand", tmp_path / "again", "--output", tmp_path / "expanded")
    ordinary = WhisperForConditionalGeneration.from_pretrained(tmp_path / "expanded", torch_dtype="auto")
    assert ordinary.dtype == model.dtype
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 0.1}[model.dtype]
    torch.testing.assert_close(outputs(ordinary), expected, rtol=0, atol=tolerance)


class Batches(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"input_features": torch.randn(80, 3000, generator=generator), "labels": torch.tensor([5, 6 + index, 2])}


def trainer(model, output, **options):
    settings = TrainingArguments(
        output,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    return Trainer(model, settings, train_dataset=Batches(), eval_dataset=Batches())


def test_trainer(shared, tmp_path):
    """Every term moves; the best checkpoint, and the one that training resumes from, are read whole."""
    pytest.importorskip("accelerate")
    model = transformers.load(shared)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    training = trainer(model, tmp_path / "run", num_train_epochs=3, load_best_model_at_end=True)
    training.train()
    assert not any(torch.equal(before[name], value) for name, value in model.named_parameters() if "encoder.layers.0.fc1" in name)
    best = transformers.load(training.state.best_model_checkpoint)
    assert torch.equal(outputs(best), outputs(model.eval()))
    refused(tmp_path / "run" / "checkpoint-4")

    resumed = trainer(transformers.load(shared), tmp_path / "run", num_train_epochs=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    losses = [
        next(row["eval_loss"] for row in run.state.log_history if row["step"] == 6 and "eval_loss" in row)
        for run in (training, resumed)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_half_precision_stays(shared, tmp_path):
    """A folder's precision is that of what is made of it, and of the sizes that are reported."""
    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        folder = tmp_path / name
        shutil.copytree(shared.with_name("dense"), folder)
        WhisperForConditionalGeneration.from_pretrained(folder).to(dtype).save_pretrained(folder)
        figures = json.loads(cli("compress", folder, "--output", tmp_path / f"{name}-shared", *FORM, "--json").stdout)
        for key, place in (("dense_model_bytes", folder), ("model_bytes", tmp_path / f"{name}-shared")):
            stored = sum(value.nbytes for value in load_file(place / "model.safetensors").values() if value.is_floating_point())
            assert figures[key] == pytest.approx(stored, abs=100)
            config = json.loads((place / "config.json").read_text())
            assert name in (config.get("dtype"), config.get("torch_dtype"))
        rounded = transformers.load(tmp_path / f"{name}-shared").float()
        torch.testing.assert_close(outputs(rounded), outputs(transformers.load(shared)), rtol=0, atol=0.05)


@pytest.mark.parametrize("form", ["shards", "pytorch_model.bin", "shards of pytorch_model.bin"])
def test_weights_in_every_form_that_transformers_reads(shared, tmp_path, form):
    folder, model = tmp_path / "folder", WhisperForConditionalGeneration.from_pretrained(shared.with_name("dense")).eval()
    shutil.copytree(shared.with_name("dense"), folder)
    (folder / "model.safetensors").unlink()
    if form == "shards":
        model.save_pretrained(folder, max_shard_size="50KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
    elif form == "pytorch_model.bin":
        torch.save(model.state_dict(), folder / form)
    else:
        state = model.state_dict()
        files = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(state)}
        for file in set(files.values()):
            torch.save({name: state[name] for name in state if files[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert torch.equal(outputs(transformers.load(folder)), outputs(model))
    cli("compress", folder, "--output", tmp_path / "out", *FORM)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if "model" in path.name) == ["model.safetensors"]
    assert torch.equal(words(transformers.load(tmp_path / "out")), words(transformers.load(shared)))


class Program:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_weights_that_are_refused(shared, tmp_path):
    def fails(message, **files):
        folder = tmp_path / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(shared, folder)
        for name, content in files.items():
            path = folder / name.replace("__", ".")
            path.unlink(missing_ok=True)
            if content is not None:
                content(path) if callable(content) else path.write_text(content)
        with pytest.raises(InputError, match=message) as error:
            transformers.load(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)

    weights, config = load_file(shared / "model.safetensors"), json.loads((shared / "config.json").read_text())
    less = {name: value for name, value in weights.items() if name != "model.encoder.layer_norm.weight"}
    dense = load_file(shared.with_name("dense") / "model.safetensors")
    fails("cannot be read: Error no file named", model__safetensors=None)
    fails("missing keys, first model.encoder.layer_norm.weight", model__safetensors=lambda path: save_file(less, path))
    fails(
        "unexpected keys, first model.more",
        model__safetensors=lambda path: save_file({**weights, "model.more": torch.zeros(2)}, path),
    )
    fails("missing keys, first model.encoder.layers.0.fc1.diagonal", model__safetensors=lambda path: save_file(dense, path))
    fails("mismatched keys, first model.decoder.embed_positions", config__json=json.dumps({**config, "max_target_positions": 7}))
    fails("must be one of encoder, decoder", config__json=json.dumps({**config, "residual_st": {"size": 2}}))
    fails("must be one of encoder, decoder", config__json=json.dumps({**config, "residual_st": "2"}))
    fails("cannot be read: UnpicklingError", model__safetensors=None, pytorch_model__bin=lambda path: torch.save(Program(), path))


def test_a_folder_without_its_feature_extractor(shared, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(shared.with_name("dense"), folder)
    (folder / "preprocessor_config.json").unlink()
    for command in (["export"], ["compress", "--calibration", tmp_path]):
        result = cli(command[0], folder, "--output", tmp_path / "out", *command[1:], check=False)
        assert result.returncode == 2
        assert f"{folder} has no preprocessor_config.json that transformers can read; copy that of the model" in result.stderr
        assert not (tmp_path / "out").exists()


def test_a_link_to_an_output_is_followed(shared, tmp_path):
    cli("expand", shared, "--output", tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    marker = tmp_path / "there" / "old.txt"
    marker.write_text("of what is replaced")
    cli("expand", shared, "--output", tmp_path / "link", "--force")
    assert (tmp_path / "link").is_symlink() and not marker.exists()
    assert (tmp_path / "there" / "config.json").is_file()
