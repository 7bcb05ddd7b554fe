"""peft adapters on models with shared layers are correct or refused."""

import pytest
import torch

huggingface = pytest.importorskip("residual_st.huggingface")
peft = pytest.importorskip("peft")
from tiny_models import make, outputs  # noqa: E402

from residual_st.compression import CompressionConfig, compress  # noqa: E402
from residual_st.errors import InputError  # noqa: E402

DECODER = r".*decoder.*\.(q_proj|v_proj|fc1)"


@pytest.fixture
def shared(tmp_path):
    model = make("whisper", tmp_path / "dense")
    compress(model, CompressionConfig(group_size=2, rank=3))
    huggingface.save(model, tmp_path / "shared", tmp_path / "dense")
    return tmp_path / "shared"


def adapted(model, targets):
    """The model with random adapters."""
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_adapters_on_shared_matrices_are_refused(shared):
    model = huggingface.load(shared)
    for kind in (peft.LoraConfig, peft.LoHaConfig, peft.RandLoraConfig):
        with pytest.raises(InputError, match="all-linear skips shared matrices; expand the model first"):
            peft.get_peft_model(model, kind(target_modules="all-linear"))
    with pytest.raises(ValueError, match="ResidualLinear.* is not supported"):
        adapted(huggingface.load(shared), ["q_proj", "v_proj"])


def test_adapters_of_the_decoder_work_with_a_shared_encoder(shared, tmp_path):
    before = outputs(huggingface.load(shared))
    model = adapted(huggingface.load(shared), DECODER)
    together = outputs(model)
    assert (together - before).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(huggingface.load(shared), tmp_path / "adapter").eval()
    torch.testing.assert_close(outputs(again), together)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(outputs(huggingface.load(tmp_path / "merged")), together, rtol=1e-4, atol=1e-5)


def test_expanded_model_is_adapted_and_compressed_again(shared, tmp_path):
    huggingface.expand(shared, tmp_path / "expanded")
    model = adapted(huggingface.load(tmp_path / "expanded"), "all-linear")
    assert sum("encoder.layers" in name and "lora_A" in name for name, _ in model.named_parameters()) == 4 * 6
    together = outputs(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(outputs(merged), together, rtol=1e-4, atol=1e-5)
    compress(merged, CompressionConfig(group_size=2, rank=32))  # full rank is lossless
    torch.testing.assert_close(outputs(merged), together, rtol=1e-3, atol=1e-4)
