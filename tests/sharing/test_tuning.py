import copy
import itertools

import pytest
import torch
from torch import nn

from residual_st.sharing import ResidualLinear, SharedForm, share_layers, tune_products, tuning


@pytest.fixture
def stack() -> nn.ModuleList:
    torch.manual_seed(1)
    layers = nn.ModuleList(nn.ModuleDict({"a": nn.Linear(32, 64), "b": nn.Linear(64, 64)}) for _ in range(4))
    shared_weights = share_layers(layers, SharedForm.make(4, ("a", "b"), group_size=2, rank=3))
    return nn.ModuleList([layers, shared_weights])


def linears(stack: nn.Module) -> list[ResidualLinear]:
    return [module for module in stack.modules() if isinstance(module, ResidualLinear)]


def test_each_layer_gets_the_threshold_at_which_composing_is_faster(stack, monkeypatch):
    seconds = itertools.cycle([2, 9, 5])  # seconds to compose, to multiply factor by factor, and to multiply with a composed weight
    monkeypatch.setattr(tuning, "_least_seconds", lambda functions: next(seconds))
    assert {each.compose_from for each in linears(stack)} == {None}
    assert tune_products(stack) == {(64, 32, 3): 256 * 2 / (9 - 5), (64, 64, 3): 256 * 2 / (9 - 5)}
    assert {each.compose_from for each in linears(copy.deepcopy(stack))} == {128}


def test_tuning_with_real_times(stack):
    crossings = tune_products(stack)
    assert all(0 < crossing < float("inf") for crossing in crossings.values())
    x, linear = torch.randn(50, 32), linears(stack)[0]
    with torch.no_grad():
        torch.testing.assert_close(linear(x), nn.functional.linear(x, linear.weight, linear.bias))


def test_only_float32_products_on_a_cpu_are_tuned(stack):
    assert tune_products(stack.double()) == {}
    assert tune_products(nn.Linear(3, 3)) == {}
