"""`from_pretrained` of transformers reads shared folders if residual_st.huggingface is imported, and refuses them otherwise."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import run

huggingface = pytest.importorskip("residual_st.huggingface")
pytest.importorskip("accelerate")
from ordinary_readers import READERS  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_kinds import TINY, batch_of, noise  # noqa: E402
from tiny_kinds import make as make_kind  # noqa: E402
from tiny_kinds import outputs as outputs_of  # noqa: E402
from tiny_models import make, outputs  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForSpeechSeq2Seq,
    WhisperForCausalLM,
    WhisperForConditionalGeneration,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING  # noqa: E402

from residual_st.compression import CompressionConfig, compress  # noqa: E402
from residual_st.errors import InputError  # noqa: E402
from residual_st.huggingface.description import METHOD, SharedLayersConfig  # noqa: E402
from residual_st.sharing import form_of, share_layers  # noqa: E402
from residual_st.stacks import stack_of  # noqa: E402


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One model as folders: dense, shared, in shards, in float16 and as a pickle."""
    root = tmp_path_factory.mktemp("folders")
    model = make("whisper", root / "dense")
    compress(model, CompressionConfig(group_size=2, rank=3))
    model.save_pretrained(root / "whole")
    model.save_pretrained(root / "shards", max_shard_size="50KB")
    shutil.copytree(root / "whole", root / "bin")
    (root / "bin" / "model.safetensors").unlink()
    torch.save(model.state_dict(), root / "bin" / "pytorch_model.bin")
    model.half().save_pretrained(root / "float16")
    for name in ("whole", "shards", "bin", "float16"):
        shutil.copy(root / "dense" / "preprocessor_config.json", root / name)
    return root


def states(model):
    """Encoder states of fixed random features."""
    encoder = getattr(getattr(model, "model", model), "encoder", None)
    with torch.no_grad():
        return encoder(torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(2)).to(encoder.dtype))[0].float()


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_loads_shared_folders(folders, reader):
    expected = states(huggingface.load(folders / "whole"))
    for folder in ("whole", "shards", "bin"):
        model = READERS[reader](folders / folder)
        tolerance = {torch.float32: 0, torch.float16: 0.01, torch.bfloat16: 0.1}[model.dtype]
        assert model.dtype == getattr(torch, reader, torch.float32)
        torch.testing.assert_close(states(model), expected, rtol=0, atol=tolerance)
        assert type(model).__module__.startswith("transformers.")
    for asked in ({"torch_dtype": "auto"}, {"torch_dtype": "auto", "device_map": "cpu"}):
        assert WhisperForConditionalGeneration.from_pretrained(folders / "float16", **asked).dtype == torch.float16


def test_readers_without_residual_st_refuse_shared_folders(folders, tmp_path):
    """For every reader and weight format, in a process without residual_st. The message of transformers names what to import."""
    names = ["whole", "shards", "bin", "float16"]
    result = run(sys.executable, Path(__file__).with_name("ordinary_readers.py"), *(folders / name for name in names))
    errors = json.loads(result.stdout.splitlines()[-1])
    for name in names:
        for reader, error in errors[str(folders / name)].items():
            assert error is not None and "mismatch" in error, f"{reader} of {name}: {error}"
    assert "got residual_st.huggingface" in result.stderr


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "50KB"}])
def test_loaded_model_is_saved_unchanged(folders, tmp_path, options):
    """Each U is stored once, whichever reader loaded the model."""
    original = load_file(folders / "whole" / "model.safetensors")
    for reader in (AutoModelForSpeechSeq2Seq, WhisperForConditionalGeneration):
        model = reader.from_pretrained(folders / "whole")
        model.save_pretrained(tmp_path / "again", **options)
        written = {}
        for file in (tmp_path / "again").glob("*.safetensors"):
            written |= load_file(file)
        assert written.keys() == original.keys()
        assert all(torch.equal(value, original[name]) for name, value in written.items())
        assert (tmp_path / "again" / "config.json").read_text() == (folders / "whole" / "config.json").read_text()


def test_decoder_is_loaded_from_a_shared_folder(folders):
    """It contains none of the shared layers."""
    decoder = WhisperForCausalLM.from_pretrained(folders / "whole")
    expected = huggingface.load(folders / "whole").get_decoder().state_dict()
    read = decoder.get_decoder().state_dict()
    assert read.keys() == expected.keys() and all(torch.equal(value, expected[name]) for name, value in read.items())


def test_layers_shared_from_python_are_saved_with_their_form(folders, tmp_path):
    model = WhisperForConditionalGeneration.from_pretrained(folders / "dense").eval()
    stack = stack_of(model)
    form = form_of(stack.layers, group_size=4, rank="1,2,3,4", diagonal=False)
    stack.register(share_layers(stack.layers, form))
    stack.on_sharing(stack.owner, form)
    model.save_pretrained(tmp_path / "shared")
    again = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "shared")
    assert torch.equal(outputs(again), outputs(model))
    described = {"group_size": 4, "pattern": "adjacent", "rank": "1,2,3,4", "diagonal": False}
    assert again.config.quantization_config.forms == {"encoder": described}


@pytest.mark.parametrize("name", TINY)
def test_every_kind_is_loaded_and_saved(name, tmp_path, monkeypatch):
    """Loaded by its class, and refused if the quantization method is not registered."""
    model, extractor = make_kind(name)
    inputs = batch_of(extractor, noise(1.3), noise(1.3, seed=2))
    compress(model, CompressionConfig(group_size=2, rank=3))
    model.save_pretrained(tmp_path / "shared")
    again = type(model).from_pretrained(tmp_path / "shared")
    torch.testing.assert_close(outputs_of(again, inputs), outputs_of(model, inputs), rtol=1e-5, atol=1e-5)
    again.save_pretrained(tmp_path / "again")
    stored, written = (load_file(tmp_path / folder / "model.safetensors") for folder in ("shared", "again"))
    assert stored.keys() == written.keys() and all(torch.equal(value, written[name]) for name, value in stored.items())
    monkeypatch.delitem(AUTO_QUANTIZATION_CONFIG_MAPPING, METHOD)  # as without importing residual_st
    with pytest.raises(RuntimeError, match="mismatch"):
        type(model).from_pretrained(tmp_path / "shared")


@pytest.mark.parametrize("form", [{"group_size": 3}, {"pattern": "cycle"}])
def test_layers_of_other_groups_are_refused(folders, tmp_path, form):
    """They have the same number of groups, so the same names and shapes."""
    shutil.copytree(folders / "whole", tmp_path / "edited")
    config = json.loads((tmp_path / "edited" / "config.json").read_text())
    config["quantization_config"]["forms"]["encoder"] |= form
    (tmp_path / "edited" / "config.json").write_text(json.dumps(config))
    for load in (AutoModelForSpeechSeq2Seq.from_pretrained, huggingface.load):
        with pytest.raises(InputError, match="edited does not contain the model .*: it has the layer groups 0,0,1,1"):
            load(tmp_path / "edited")


def test_weights_that_do_not_match_the_config_are_refused(folders, tmp_path):
    """transformers alone would initialise missing weights at random and warn."""
    shutil.copytree(folders / "dense", tmp_path / "mixed")
    shutil.copy(folders / "whole" / "config.json", tmp_path / "mixed")
    with pytest.raises(
        InputError, match="mixed does not contain the model that its config.json describes: missing keys, first model.enc"
    ):
        AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "mixed")
    weights = load_file(folders / "whole" / "model.safetensors")
    del weights["model.encoder.layers.2.fc2.up"]
    save_file(weights, tmp_path / "mixed" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="missing keys, first model.encoder.layers.2.fc2.up"):
        AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "mixed")
    with pytest.raises(ValueError, match="pre-quantized"):
        form = {"encoder": {"group_size": 2}}
        AutoModelForSpeechSeq2Seq.from_pretrained(folders / "dense", quantization_config=SharedLayersConfig(form))
