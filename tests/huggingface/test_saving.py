"""Saving shared models with transformers, and loading weights in every format that it reads."""

import copy
import json
import shutil

import pytest
import torch
from conftest import cli

huggingface = pytest.importorskip("residual_st.huggingface")
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_models import make, outputs  # noqa: E402
from transformers import (  # noqa: E402
    WhisperForConditionalGeneration,
)

from residual_st.compression import CompressionConfig, compress  # noqa: E402
from residual_st.errors import InputError  # noqa: E402

FORM = ["--group-size", "2", "--residual-rank", "3"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A compressed folder, next to the dense one."""
    folder = tmp_path_factory.mktemp("saving")
    make("whisper", folder / "dense")
    cli("compress", folder / "dense", "--output", folder / "shared", *FORM)
    return folder / "shared"


def words(model):
    features = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(5))
    return model.generate(features.to(model.dtype), max_new_tokens=8, num_beams=2)


def contains_marks(folder):
    """Whether each composed weight is replaced by a mark, at which transformers without residual_st refuses the folder."""
    stored = {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
    marks = [name for name, value in stored.items() if value.dtype == torch.uint8]
    terms = [name for name in stored if name.endswith(".up")]
    return len(terms) == 4 * 6 and sorted(marks) == sorted(name.removesuffix("up") + "weight" for name in terms)


def test_model_compressed_in_place_is_saved(shared, tmp_path):
    """Compressed from Python, and saved by the `save_pretrained` of its class."""
    model = WhisperForConditionalGeneration.from_pretrained(shared.with_name("dense")).eval()
    compress(model, CompressionConfig(group_size=2, rank=3))
    model.save_pretrained(tmp_path / "saved")
    assert contains_marks(tmp_path / "saved")
    again = huggingface.load(tmp_path / "saved")
    assert type(again) is WhisperForConditionalGeneration
    assert torch.equal(outputs(again), outputs(model)) and torch.equal(words(again), words(model))


@pytest.mark.parametrize("marked", [False, True])
def test_folders_of_earlier_releases_are_read_and_updated(shared, tmp_path, marked):
    """They store the form under another key. Those of 0.1.0 have no marks, so transformers alone would accept them."""
    old = tmp_path / "old"
    shutil.copytree(shared, old)
    config = json.loads((old / "config.json").read_text())
    config["residual_st"] = config.pop("quantization_config")["forms"]["encoder"]
    (old / "config.json").write_text(json.dumps(config))
    if marked:
        with pytest.raises(RuntimeError, match="mismatch"):
            WhisperForConditionalGeneration.from_pretrained(old)
    else:
        weights = {name: value for name, value in load_file(old / "model.safetensors").items() if value.dtype != torch.uint8}
        save_file(weights, old / "model.safetensors", {"format": "pt"})
    model = huggingface.load(old)
    assert torch.equal(outputs(model), outputs(huggingface.load(shared)))
    cli("expand", old, "--output", tmp_path / "expanded")
    expanded_model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "expanded").eval()
    torch.testing.assert_close(outputs(expanded_model), outputs(model))
    model.save_pretrained(old)
    assert contains_marks(old) and (old / "config.json").read_text() == (shared / "config.json").read_text()
    assert torch.equal(words(WhisperForConditionalGeneration.from_pretrained(old)), words(model))


@pytest.mark.parametrize("change", [lambda model: model, copy.deepcopy, lambda model: model.bfloat16(), lambda model: model.half()])
def test_loaded_model_is_saved_again(shared, tmp_path, change):
    """Twice to the same folder, in shards, and from a given state dict; commands read the result."""
    model = change(huggingface.load(shared))
    expected, written = outputs(model), words(model)
    for options in ({}, {}, {"max_shard_size": "50KB"}, {"state_dict": model.state_dict()}):
        if options:
            shutil.rmtree(tmp_path / "again")
        model.save_pretrained(tmp_path / "again", **options)
        again = huggingface.load(tmp_path / "again")
        assert again.dtype == model.dtype
        assert torch.equal(outputs(again), expected) and torch.equal(words(again), written)
    assert contains_marks(tmp_path / "again")
    shutil.copy(shared / "preprocessor_config.json", tmp_path / "again")
    cli("expand", tmp_path / "again", "--output", tmp_path / "expanded")
    expanded_model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "expanded", torch_dtype="auto")
    assert expanded_model.dtype == model.dtype
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 0.1}[model.dtype]
    torch.testing.assert_close(outputs(expanded_model), expected, rtol=0, atol=tolerance)


def test_half_precision_is_kept(shared, tmp_path):
    """Outputs have the precision of their folder, and reported sizes refer to it."""
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
        rounded = huggingface.load(tmp_path / f"{name}-shared").float()
        torch.testing.assert_close(outputs(rounded), outputs(huggingface.load(shared)), rtol=0, atol=0.05)


@pytest.mark.parametrize("form", ["shards", "pytorch_model.bin", "shards of pytorch_model.bin"])
def test_weights_in_every_format_of_transformers_are_read(shared, tmp_path, form):
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
    assert torch.equal(outputs(huggingface.load(folder)), outputs(model))
    cli("compress", folder, "--output", tmp_path / "out", *FORM)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if "model" in path.name) == ["model.safetensors"]
    assert torch.equal(words(huggingface.load(tmp_path / "out")), words(huggingface.load(shared)))


class Program:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_invalid_folders_are_refused(shared, tmp_path):
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
            huggingface.load(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)

    weights, config = load_file(shared / "model.safetensors"), json.loads((shared / "config.json").read_text())
    incomplete = {name: value for name, value in weights.items() if name != "model.encoder.layer_norm.weight"}
    dense = load_file(shared.with_name("dense") / "model.safetensors")
    fails("cannot be read: Error no file named", model__safetensors=None)
    fails("missing keys, first model.encoder.layer_norm.weight", model__safetensors=lambda path: save_file(incomplete, path))
    fails(
        "unexpected keys, first model.more",
        model__safetensors=lambda path: save_file({**weights, "model.more": torch.zeros(2)}, path),
    )
    fails("missing keys, first model.encoder.layers.0.fc1.diagonal", model__safetensors=lambda path: save_file(dense, path))
    fails("mismatched keys, first model.decoder.embed_positions", config__json=json.dumps({**config, "max_target_positions": 7}))
    for forms, message in (
        ({"size": 2}, "describes shared layers in size; it must be one of encoder, decoder"),
        ({"encoder": {"size": 2}}, "cannot be read"),
        ("2", "cannot be read"),
    ):
        described = {**config["quantization_config"], "forms": forms}
        fails(message, config__json=json.dumps({**config, "quantization_config": described}))
    fails(
        "cannot be read: (UnpicklingError|Unable to load)",
        model__safetensors=None,
        pytorch_model__bin=lambda path: torch.save(Program(), path),
    )


def test_missing_feature_extractor_is_named(shared, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(shared.with_name("dense"), folder)
    (folder / "preprocessor_config.json").unlink()
    for command in (["export"], ["compress", "--calibration", tmp_path]):
        result = cli(command[0], folder, "--output", tmp_path / "out", *command[1:], check=False)
        assert result.returncode == 2
        assert f"{folder} has no preprocessor_config.json that transformers can read; copy it from the model" in result.stderr
        assert not (tmp_path / "out").exists()


def test_symlink_as_output_is_followed(shared, tmp_path):
    cli("expand", shared, "--output", tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    marker = tmp_path / "there" / "old.txt"
    marker.write_text("replaced")
    cli("expand", shared, "--output", tmp_path / "link", "--force")
    assert (tmp_path / "link").is_symlink() and not marker.exists()
    assert (tmp_path / "there" / "config.json").is_file()
