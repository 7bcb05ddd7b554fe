"""peft's adapters beside shared layers: right, or refused."""

import pytest
import torch

transformers = pytest.importorskip("residual_st.huggingface")
peft = pytest.importorskip("peft")
from tiny_models import make, outputs  # noqa: E402

from residual_st.compression import CompressionConfig, compress  # noqa: E402
from residual_st.errors import InputError  # noqa: E402

DECODER = r".*decoder.*\.(q_proj|v_proj|fc1)"


@pytest.fixture
def shared(tmp_path):
    model = make("whisper", tmp_path / "dense")
    compress(model, CompressionConfig(group_size=2, rank=3))
    transformers.save(model, tmp_path / "shared", tmp_path / "dense")
    return tmp_path / "shared"


def adapted(model, targets):
    """With adapters that do something."""
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_all_linear_is_refused_and_names_are(shared):
    model = transformers.load(shared)
    for kind in (peft.LoraConfig, peft.LoHaConfig, peft.RandLoraConfig):
        with pytest.raises(InputError, match="all-linear skips shared matrices; expand the model first"):
            peft.get_peft_model(model, kind(target_modules="all-linear"))
    with pytest.raises(ValueError, match="ResidualLinear.* is not supported"):
        adapted(transformers.load(shared), ["q_proj", "v_proj"])


def test_adapters_of_the_decoder_beside_a_shared_encoder(shared, tmp_path):
    before = outputs(transformers.load(shared))
    model = adapted(transformers.load(shared), DECODER)
    together = outputs(model)
    assert (together - before).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(transformers.load(shared), tmp_path / "adapter").eval()
    torch.testing.assert_close(outputs(again), together)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(outputs(transformers.load(tmp_path / "merged")), together, rtol=1e-4, atol=1e-5)


def test_an_expanded_model_is_adapted_everywhere_and_compressed_again(shared, tmp_path):
    transformers.expand(shared, tmp_path / "expanded")
    model = adapted(transformers.load(tmp_path / "expanded"), "all-linear")
    assert sum("encoder.layers" in name and "lora_A" in name for name, _ in model.named_parameters()) == 4 * 6
    together = outputs(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(outputs(merged), together, rtol=1e-4, atol=1e-5)
    compress(merged, CompressionConfig(group_size=2, rank=32))  # of full rank, which loses nothing
    torch.testing.assert_close(outputs(merged), together, rtol=1e-3, atol=1e-4)
