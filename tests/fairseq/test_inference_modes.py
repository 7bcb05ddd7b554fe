"""--encoder-inference-mode changes how weights are stored, not what they compute."""

import copy
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import run, tiny_model
from fairseq.dataclass.configs import FairseqConfig

from residual_st.errors import InputError
from residual_st.fairseq.conversion import expand
from residual_st.sharing import ResidualLinear

MODES = ("compact", "fast")


def trained(mode="compact", **options):
    """A model with nonzero residuals, in evaluation mode."""
    model = tiny_model(encoder_inference_mode=mode, **options).eval()
    for name, parameter in model.encoder.named_parameters():
        if name.endswith((".up", ".diagonal")):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def prepared(model):
    model = copy.deepcopy(model)
    model.prepare_for_inference_(FairseqConfig())
    return model


def audio(*lengths):
    torch.manual_seed(1)
    return torch.randn(len(lengths), max(lengths), 80), torch.tensor(lengths)


def encode(model, frames, lengths):
    """Encoder states without those of padding."""
    with torch.no_grad():
        result = model.encoder(frames, lengths)
    states = result["encoder_out"][0].transpose(0, 1)
    return states[~result["encoder_padding_mask"][0]] if result["encoder_padding_mask"] else states


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [(100,), (37,), (60, 60), (60, 41, 9), (3000, 1200)])
def test_states_equal_those_of_the_stock_encoder(mode, lengths):
    model = trained(mode)
    stock = tiny_model("s2t_transformer_s").eval()
    dense = copy.deepcopy(model)
    expand(dense)
    stock.load_state_dict(dense.state_dict())
    expected = encode(stock, *audio(*lengths))
    torch.testing.assert_close(encode(model, *audio(*lengths)), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(encode(prepared(model), *audio(*lengths)), expected, rtol=0, atol=1e-4)


def test_compact_mode_keeps_shared_weights_and_fast_mode_composes_them():
    model = trained()
    size = sum(parameter.numel() for parameter in model.parameters())
    compact, fast = prepared(model), prepared(trained("fast"))
    assert sum(parameter.numel() for parameter in compact.parameters()) == size
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {name: tuple(value.shape) for name, value in compact.state_dict().items()}
    assert not any(isinstance(module, ResidualLinear) for module in fast.modules())
    stock = tiny_model("s2t_transformer_s").encoder.transformer_layers[0]
    dense = sum(parameter.numel() for name, parameter in stock.named_parameters() if "." in name)  # not fairseq 0.12.2's copies
    assert sum(parameter.numel() for parameter in fast.encoder.transformer_layers.parameters()) == 6 * dense


@pytest.mark.parametrize("mode", MODES)
def test_inference_never_reads_a_clock(mode, monkeypatch):
    def no_clock():
        raise AssertionError("a clock was read")

    for name in ("perf_counter", "monotonic", "process_time"):
        monkeypatch.setattr(time, name, no_clock)
    encode(prepared(trained(mode)), *audio(60, 41))


@pytest.mark.parametrize("mode", MODES)
def test_prepared_model_can_be_moved_and_copied(mode):
    model = prepared(trained(mode))
    expected = encode(model, *audio(60, 41))
    torch.testing.assert_close(encode(copy.deepcopy(model), *audio(60, 41)), expected)
    frames, lengths = audio(60, 41)
    torch.testing.assert_close(encode(model.double(), frames.double(), lengths).float(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(encode(model.bfloat16(), frames.bfloat16(), lengths).float(), expected, rtol=0.1, atol=0.2)


def test_layer_alone_in_its_group_keeps_ordinary_matrices():
    """If it has no residual either."""
    options = {"encoder_sharing_pattern": "0,0,1,2,2,2", "encoder_residual_rank": "2,2,0,2,2,2", "encoder_residual_diagonal": False}
    expected = encode(trained(**options), *audio(60, 41))
    for mode in MODES:
        torch.testing.assert_close(encode(prepared(trained(mode, **options)), *audio(60, 41)), expected, rtol=0, atol=1e-4)


def test_dense_encoder_is_unchanged():
    dense = {"encoder_group_size": 1, "encoder_residual_rank": 0, "encoder_residual_diagonal": False}
    model = tiny_model(encoder_inference_mode="fast", **dense).eval()
    assert torch.equal(encode(prepared(model), *audio(60, 41)), encode(model, *audio(60, 41)))


def test_unknown_mode_is_refused():
    with pytest.raises(InputError, match="encoder_inference_mode 'quick' is not known; it must be one of compact, fast"):
        tiny_model(encoder_inference_mode="quick")


COMPILED = """
import torch
from test_inference_modes import MODES, audio, encode, prepared, trained

for mode in MODES:
    model = prepared(trained(mode, encoder_layers=2, encoder_group_size=2))
    expected = [encode(model, *audio(*lengths)) for lengths in ((60,), (60, 41))]
    model.encoder = torch.compile(model.encoder)
    for states, lengths in zip(expected, ((60,), (60, 41))):
        torch.testing.assert_close(encode(model, *audio(*lengths)), states, rtol=0, atol=1e-4)
model = trained(encoder_layers=2, encoder_group_size=2).train()
torch.compile(model)(*audio(60), torch.tensor([[4, 5]]))[0].sum().backward()
assert model.encoder.transformer_layers[0].fc1.up.grad.any()
"""


@pytest.mark.parametrize("disable", ["0", "1"])
def test_torch_compile_keeps_the_outputs(disable, monkeypatch):
    folders = f"{Path(__file__).parent}:{Path(__file__).parent.parent}"
    monkeypatch.setenv("PYTHONPATH", folders)
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", disable)
    run(sys.executable, "-c", COMPILED)
