import copy
import re

import pytest
import torch
from conftest import tiny_model
from torch import nn

from residual_st.compression import Calibration, CompressionConfig, compress, compress_within
from residual_st.compression.refinement import refine
from residual_st.errors import InputError
from residual_st.fairseq.conversion import expand
from residual_st.sharing import ResidualLinear, matrices
from residual_st.stacks import stack_of

DENSE = "s2t_transformer_s"


@pytest.fixture
def dense():
    """A dense model with random parameters, including biases."""
    model = tiny_model(DENSE)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def loss(model, batch):
    logits = model(**batch)[0].log_softmax(-1)
    return -logits.gather(-1, batch["prev_output_tokens"][..., None]).sum()


def encode(model, batch):
    return model.encoder(batch["src_tokens"], batch["src_lengths"])["encoder_out"][0]


@pytest.fixture
def calibration(batch):
    return Calibration([batch], loss, encode)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
def test_full_rank_keeps_the_outputs(dense, batch, calibration, calibrated, diagonal):
    before = dense(**batch)[0]
    result = compress(dense, CompressionConfig(rank=32, diagonal=diagonal), calibration=calibration if calibrated else None)
    torch.testing.assert_close(dense(**batch)[0], before, rtol=1e-4, atol=1e-4)
    assert max(error for row in result.errors for error in row.values()) < 1e-5


def test_expanded_model_computes_the_same(dense, batch):
    compress(dense, CompressionConfig(rank=4))
    before = dense(**batch)[0]
    expand(dense)
    assert torch.equal(dense(**batch)[0], before)
    assert not any(isinstance(module, ResidualLinear) for module in dense.modules())
    assert list(dense.state_dict()) == [key for key in tiny_model(DENSE).state_dict() if key in dense.state_dict()]


def test_result_has_the_form_of_its_flags_and_one_u_per_group(dense):
    compress(dense, CompressionConfig(group_size=2, rank=3))
    expected = tiny_model(encoder_group_size=2, encoder_residual_rank=3)
    assert {key: value.shape for key, value in dense.state_dict().items()} == {
        key: value.shape for key, value in expected.state_dict().items()
    }
    expected.load_state_dict(dense.state_dict())


@pytest.mark.parametrize("calibrated", [False, True])
def test_alignment_and_higher_rank_lower_the_error(dense, calibration, calibrated):
    def total(**options):
        result = compress(copy.deepcopy(dense), CompressionConfig(**options), calibration=calibration if calibrated else None)
        return sum(error**2 for row in result.errors for error in row.values())

    assert total(rank=8) < total(rank=2) < total(rank=0) < total(rank=0, align=False)


def test_refinement_reduces_the_output_error(dense, batch, calibration):
    expected = encode(dense, batch)

    def distance(updates):
        model = copy.deepcopy(dense)
        compress(model, CompressionConfig(rank=2, refine_updates=updates), calibration=calibration)
        return (encode(model, batch) - expected).norm().item()

    assert distance(updates=60) < 0.8 * distance(updates=0)  # in bfloat16, too, where the processor has it


def test_refinement_supports_students_with_fewer_layers(dense, batch):
    """Their states are compared with the teacher's at the same relative depth."""
    expected, student = encode(dense, batch), copy.deepcopy(dense)
    student.encoder.transformer_layers = student.encoder.transformer_layers[::2]
    calibration = Calibration([batch], lambda model, batch: (encode(model, batch) - expected).square().sum(), encode)
    before = (encode(student, batch) - expected).norm()
    refine((dense, stack_of(dense)), (student, stack_of(student)), nn.ModuleList(), calibration, 60)
    assert (encode(student, batch) - expected).norm() < 0.9 * before


def test_compression_is_deterministic(dense, calibration):
    states = []
    for _ in range(2):
        model = copy.deepcopy(dense)
        compress(model, CompressionConfig(rank=2, refine_updates=2), calibration=calibration)
        states.append(model.state_dict())
    assert all(torch.equal(one, two) for one, two in zip(states[0].values(), states[1].values()))


def test_calibration_does_not_change_the_model(dense, calibration):
    dense.train()
    compress(dense, calibration=calibration)
    assert dense.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in dense.parameters())
    assert not dense.encoder.transformer_layers[0].self_attn.skip_embed_dim_check


@pytest.mark.parametrize("options", [{}, {"group_size": 3}, {"diagonal": False}])
def test_budget_is_used_up_and_not_exceeded(dense, options):
    result = compress(dense, CompressionConfig(weight_fraction=0.6, **options))
    assert 0.58 < result.parameters_after / result.parameters_before <= 0.6
    kept = {
        id(parameter): parameter.numel()
        for layer in dense.encoder.transformer_layers
        for _, m in matrices(layer)
        for parameter in m.terms
    }
    assert sum(kept.values()) == result.parameters_after
    if "group_size" in options:
        assert str(result.form.plan) == "0,0,0,1,1,1"


def test_budget_is_spent_on_layers_that_affect_the_loss(dense, calibration):
    """A layer with little effect on the loss gets lower ranks."""
    with torch.no_grad():
        last = dense.encoder.transformer_layers[5]
        last.self_attn.out_proj.weight.mul_(0.01)
        last.fc2.weight.mul_(0.01)
    ranks = compress(dense, CompressionConfig(group_size=3, weight_fraction=0.6), calibration=calibration).form.ranks.rows
    assert sum(ranks[5]) < 0.5 * max(map(sum, ranks))


def test_budget_below_the_smallest_form_is_refused(dense):
    with pytest.raises(InputError, match=r"weight fraction 0.1 is too small for these layers; the smallest form has 0\.\d+$"):
        compress(dense, CompressionConfig(weight_fraction=0.1))
    with pytest.raises(InputError, match=r"these layers at group size 2; the smallest form has 0.5\d+"):
        compress(dense, CompressionConfig(weight_fraction=0.4, group_size=2))


class Block(nn.Module):
    """A layer of a class that the package does not know."""

    def __init__(self):
        super().__init__()
        self.wide, self.back = nn.Linear(6, 10), nn.Linear(10, 6, bias=False)

    def forward(self, x):
        return x + self.back(self.wide(x).relu())


def test_plain_list_of_layers_is_compressed():
    torch.manual_seed(1)
    layers = nn.ModuleList(Block() for _ in range(4)).eval()
    x = torch.randn(3, 5, 6)

    def run(layers, x):
        for layer in layers:
            x = layer(x)
        return x

    before = run(layers, x)
    calibration = Calibration([x], lambda layers, x: run(layers, x).square().sum(), run)
    result = compress(layers, CompressionConfig(group_size=2, rank=6), calibration=calibration)
    torch.testing.assert_close(run(layers, x), before, rtol=1e-4, atol=1e-5)
    assert result.shared_weights["0"]["wide"] is layers[1].wide.shared_weight
    assert {name.split(".")[1] for name, _ in layers.named_parameters()} == {"wide", "back"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 33}, "residual rank 33 does not fit self_attn.k_proj, whose smaller side is 32"),
        ({"group_size": 7}, "group size 7 does not fit a stack of 6 layers"),
        ({"refine_updates": 5}, "refinement needs calibration data"),
    ],
)
def test_invalid_options_are_refused(dense, options, message):
    with pytest.raises(InputError, match=message):
        compress(dense, CompressionConfig(**options))


def test_settings_as_keywords_are_refused_with_their_replacement(dense, calibration):
    with pytest.raises(TypeError, match=re.escape("compress(…, CompressionConfig(group_size=…, rank=…))")):
        compress(dense, group_size=3, rank=2)
    with pytest.raises(TypeError, match=re.escape("compress_within(…, CompressionConfig(diagonal=…))")):
        compress_within(dense, 0.1, calibration, diagonal=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"group_size": 0}, "group size 0 must be a whole number of at least 1"),
        ({"weight_fraction": 1.5}, "weight fraction 1.5 must be a number above 0 and at most 1"),
        ({"refine_updates": -1}, "the number of refinement updates -1 must be a whole number of at least 0"),
        ({"rank": 2, "weight_fraction": 0.5}, "rank and weight fraction cannot be combined"),
    ],
)
def test_config_validates_its_values(setting, message):
    with pytest.raises(InputError, match=message):
        CompressionConfig(**setting)


def test_model_with_shared_layers_is_refused():
    with pytest.raises(InputError, match="already has shared layers"):
        compress(tiny_model())
