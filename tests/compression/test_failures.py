"""A failed compression leaves the model unchanged; invalid numbers, losses and precisions are refused."""

import copy
import math

import pytest
import torch
from torch import nn

from residual_st.compression import Calibration, CompressionConfig, compress, compress_within
from residual_st.compression.correction import correct_if_better
from residual_st.compression.moments import gather
from residual_st.compression.refinement import refine
from residual_st.errors import InputError
from residual_st.stacks import LayerStack, no_padding

WIDTH = 6


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.wide, self.back = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10), nn.Linear(10, WIDTH)

    def forward(self, x, mask=None):
        return x + self.back(self.wide(self.norm(x)).relu())


class Model(nn.Module):
    def __init__(self, count=4):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(Layer() for _ in range(count))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.dropout(x)

    @property
    def stack(self):
        return LayerStack(self.layers, self)


def batches(count=4, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(2)
    return [(scale * torch.randn(3, 20, WIDTH, generator=generator)).to(dtype) for _ in range(count)]


def loss(model, x):
    return 1 + model(x).float().square().mean()


def encode(model, x):
    return model(x)


def snapshot(model):
    """The state of a model that callers can observe."""
    modules = {name: (id(module), module.training) for name, module in model.named_modules()}
    hooks = [len(hook) for m in model.modules() for hook in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
    parameters = {name: (id(one), one.requires_grad, one.grad) for name, one in model.named_parameters()}
    return modules, hooks, parameters


class Failing:
    """Wraps a function so that its nth call fails."""

    def __init__(self, function, at: int, error: type[BaseException]):
        self.function, self.left, self.error = function, at, error

    def __call__(self, model, x):
        self.left -= 1
        if not self.left:
            raise self.error("on purpose")
        return self.function(model, x)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(("name", "at"), [("loss", 1), ("loss", 4), ("loss", 5), ("encode", 1), ("encode", 5), ("encode", 12)])
def test_failure_leaves_the_model_unchanged(name, at, error):
    model = Model().train()
    model.dropout.eval()  # differs from the model's mode
    model.layers[1].requires_grad_(False)
    before, state = snapshot(model), copy.deepcopy(model.state_dict())
    functions = {"loss": loss, "encode": encode}
    functions[name] = Failing(functions[name], at, error)
    with pytest.raises(error, match="on purpose"):
        compress(
            model,
            CompressionConfig(group_size=2, refine_updates=8),
            stack=model.stack,
            calibration=Calibration(batches(), **functions),
        )
    assert snapshot(model) == before
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    assert not hasattr(model, "shared_weights")


def test_modes_and_requires_grad_are_kept():
    model = Model().train()
    model.dropout.eval()
    model.requires_grad_(False)
    with torch.no_grad():  # callers may disable gradients
        compress(
            model,
            CompressionConfig(group_size=2, refine_updates=8),
            stack=model.stack,
            calibration=Calibration(batches(), loss, encode),
        )
    assert model.training and not model.dropout.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_model_is_refined_like_a_trainable_one():
    results = []
    for frozen in (False, True):
        model = Model().requires_grad_(not frozen)
        torch.manual_seed(3)
        compress(
            model,
            CompressionConfig(group_size=2, refine_updates=8),
            stack=model.stack,
            calibration=Calibration(batches(), loss, encode),
        )
        results.append(model.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(results[0].values(), results[1].values()))


def test_slice_of_a_models_layers_is_compressed():
    """A slice is a new list, which is not a module of the model."""
    model, x = Model(), batches()[0]
    before = model.eval()(x)
    stack = LayerStack(model.layers[1:], model)
    result = compress(model, CompressionConfig(group_size=3, rank=6), stack=stack, calibration=Calibration(batches(), loss, encode))
    assert isinstance(model.layers[0].wide, nn.Linear)
    assert model.layers[1].wide.shared_weight is model.layers[3].wide.shared_weight is result.shared_weights["0"]["wide"]
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="Model already owns the shared weights of other layers"):
        compress(model, CompressionConfig(group_size=1), stack=LayerStack(nn.ModuleList([model.layers[0]]), model))


def test_undescribed_mask_is_refused():
    def masked(model, x):
        for layer in model.layers:
            x = layer(mask=torch.zeros(3, 20), x=x)
        return x.square().sum()

    model = Model()
    with pytest.raises(InputError, match="are called with mask, x, which may contain a mask; define the padding"):
        gather(model, model.stack, Calibration(batches(), masked))
    seen = gather(model, LayerStack(model.layers, padding=no_padding), Calibration(batches(1), masked))
    assert seen[0]["wide"].count == 60


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_summed_in_float32(precision):
    """The squares of these inputs overflow float16."""
    model, given = Model().to(precision).eval(), batches(dtype=precision, scale=300)
    expected = [model(x).detach() for x in given]

    def loss(model, number):
        return 1 + (model(given[number]) - expected[number]).float().square().mean()

    calibration = Calibration(range(4), loss, lambda model, number: model(given[number]))
    compress(model, CompressionConfig(group_size=2, rank=2, refine_updates=20), stack=model.stack, calibration=calibration)
    assert {parameter.dtype for parameter in model.parameters()} == {precision}
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert (model(given[0]) - expected[0]).float().norm() < 0.2 * expected[0].float().norm()


def test_half_precision_model_is_refined():
    def error(updates):
        model, given = Model().to(torch.float16).eval(), batches(dtype=torch.float16)
        expected = [model(x).detach() for x in given]

        def loss(model, number):
            return 1 + (model(given[number]) - expected[number]).float().square().mean()

        calibration = Calibration(range(4), loss, lambda model, number: model(given[number]))
        config = CompressionConfig(group_size=4, rank=0, diagonal=False, correct=False, refine_updates=updates)
        compress(model, config, stack=model.stack, calibration=calibration)
        return sum(loss(model, number).item() - 1 for number in range(4))

    assert error(60) < 0.8 * error(0)


def test_nan_losses_are_never_chosen(monkeypatch):
    model, calls = Model(), []

    def sometimes(model, x):
        calls.append(1)
        return loss(model, x) * (math.nan if len(calls) % 2 == 0 else 1)

    calibration = Calibration(batches(2), lambda model, x: loss(model, x) * math.nan, encode)
    assert calibration.held_out_loss(model) == math.inf
    with pytest.raises(InputError, match="the loss of the dense model is nan on calibration batch 0"):
        compress(model, CompressionConfig(group_size=2), stack=model.stack, calibration=calibration)

    before = copy.deepcopy(model.layers.state_dict())

    def spoil(*_):
        with torch.no_grad():
            model.layers[0].wide.weight.fill_(math.nan)

    monkeypatch.setattr("residual_st.compression.correction.correct", spoil)
    correct_if_better(model, model.stack, None, Calibration(batches(2), loss, encode))
    dense = Model()
    refine((dense, dense.stack), (model, model.stack), nn.ModuleList(), Calibration(batches(2), sometimes, encode), 4)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert list(before) == list(model.layers.state_dict())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": lambda model, x: model(x)}, "must return a scalar tensor"),
        ({"loss": lambda model, x: 1.0}, "must return a scalar tensor"),
        ({"loss": lambda model, x: model(x).detach().sum()}, "must return a scalar tensor"),
        ({"encode": lambda model, x: None}, "`encode` never ran layer 0"),
        ({"encode": lambda model, x: model.layers[0](x)}, "never ran layer 1"),
        ({"batches": iter(batches())}, "batches are a list_iterator; give a list"),
        ({"batches": []}, "has no batches"),
        ({"more": 3}, "more are a int; give a list"),
        ({"loss": None}, "loss None must be a function"),
        ({"predict": 3}, "predict 3 must be a function"),
    ],
)
def test_invalid_calibration_is_refused(wrong, message):
    model = Model()
    with pytest.raises(InputError, match=message):
        calibration = Calibration(**{"batches": batches(), "loss": loss, "encode": encode, **wrong})
        compress(model, CompressionConfig(group_size=2, refine_updates=4), stack=model.stack, calibration=calibration)
    assert isinstance(model.layers[0].wide, nn.Linear)


def test_non_finite_weights_are_refused():
    model = Model()
    with torch.no_grad():
        model.layers[2].back.weight[0, 0] = math.nan
    with pytest.raises(InputError, match="2.back.weight of the layers contains values that are not finite"):
        compress(model, CompressionConfig(group_size=2), stack=model.stack)


NONSENSE = [0, -1, 2.0, 2.5, math.nan, math.inf, True, "x", "", "2", [2], 1e300]


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
def test_any_value_for_a_number_is_used_or_refused(value):
    calibration = Calibration(batches(2), loss, encode)
    for options, data in (
        ({"group_size": value}, None),
        ({"rank": value}, None),
        ({"weight_fraction": value}, None),
        ({"weight_fraction": value}, calibration),
        ({"refine_updates": value}, calibration),
        ({"pattern": value}, None),
    ):
        for count in (1, 3):
            model = Model(count)
            try:
                compress(model, CompressionConfig(**{"group_size": 1, **options}), stack=model.stack, calibration=data)
            except InputError as error:
                assert len(str(error).splitlines()) == 1
    model = Model(2)
    try:
        compress_within(model, value, calibration, stack=model.stack)
    except InputError as error:
        assert len(str(error).splitlines()) == 1


def test_single_layer_gets_only_a_low_rank():
    model = Model(1)
    with pytest.raises(InputError, match="a single layer cannot share"):
        compress(model, CompressionConfig(weight_fraction=0.5), stack=model.stack)
    result = compress(
        model, CompressionConfig(weight_fraction=0.7), stack=model.stack, calibration=Calibration(batches(), loss, encode)
    )
    assert result.parameters_after <= 0.7 * result.parameters_before


@pytest.mark.parametrize(
    ("max_loss", "options", "message"),
    [
        (math.nan, {}, "max_loss nan must be"),
        (-0.1, {}, "max_loss -0.1 must be"),
        (0.1, {"rank": 2}, "rank cannot be combined with a maximum loss"),
        (0.1, {"loss": lambda model, x: -model(x).square().sum()}, "it must be above 0 for a relative limit"),
    ],
)
def test_invalid_max_loss_is_refused(max_loss, options, message):
    model = Model()
    calibration = Calibration(batches(), options.pop("loss", loss), encode)
    with pytest.raises(InputError, match=message):
        compress_within(model, max_loss, calibration, CompressionConfig(**options), stack=model.stack)
