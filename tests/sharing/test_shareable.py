"""Stacks that cannot be shared are refused by name and left unchanged."""

import copy
import operator

import pytest
import torch
from conftest import tiny_model
from fairseq.modules.quant_noise import quant_noise
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from residual_st.compression import CompressionConfig, compress
from residual_st.errors import InputError
from residual_st.sharing import Alone, form_of, share_layers
from residual_st.stacks import LayerStack


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        return x + self.b(self.a(x).relu())


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def stack(count=4, change=lambda layers: None) -> nn.ModuleList:
    torch.manual_seed(1)
    layers = nn.ModuleList(Layer() for _ in range(count))
    change(layers)
    return layers


def quantised_in_training(layers):
    layers[1].a = quant_noise(layers[1].a, 0.5, 2)


def with_replaced_forward(layers):
    layers[1].b.forward = lambda x: x


def used_twice_in_a_layer(layers):
    layers[2].c = layers[2].a


def with_clashing_names(layers):
    for layer in layers:
        layer.a, layer.a_b = nn.Sequential(), nn.Linear(6, 6)
        layer.a.b = nn.Linear(6, 6)


REFUSED = [
    (lambda layers: layers[3].register_module("a", Doubled(6, 8)), "a of layer 3 is a Doubled, which may compute more"),
    (lambda layers: parametrizations.orthogonal(layers[0].a), "a of layer 0 is a ParametrizedLinear, which may compute more"),
    (lambda layers: weight_norm(layers[1].a), "a of layer 1 has bias, weight_g, weight_v instead of weight and bias"),
    (lambda layers: prune.random_unstructured(layers[1].b, "weight", 0.5), "b of layer 1 has bias, weight_mask, weight_orig"),
    (quantised_in_training, r"a of layer 1 has the hook quant_noise.*, which sharing would drop"),
    (with_replaced_forward, "b of layer 1 has its own forward"),
    (used_twice_in_a_layer, "c of layer 2 and a of layer 2 are the same module"),
    (lambda layers: layers[3].register_module("a", layers[1].a), "a of layer 3 and a of layer 1 are the same module"),
    (lambda layers: layers.__setitem__(2, layers[0]), "layer 2 and layer 0 are the same module"),
    (lambda layers: setattr(layers[3].a, "weight", layers[0].a.weight), "a of layer 3 has the same weight as a of layer 0"),
    (lambda layers: setattr(layers[1], "copy", layers[1].a.weight), "a of layer 1 is also 1.copy of ModuleList"),
    (with_clashing_names, r"the matrices a_b and a.b would both be saved as a_b|a.b and a_b would both be saved as a_b"),
    (lambda layers: layers[0].register_module("a", nn.Identity()), "layer 1 has different matrices from layer 0"),
    (lambda layers: layers.__setitem__(0, nn.ReLU()), "layer 0 has no torch.nn.Linear or torch.nn.Conv1d with kernel 1 to share"),
    (lambda layers: layers[1].double(), "a of layer 1 is torch.float64 on cpu, but torch.float32 on cpu in another layer"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_unshareable_stack_is_refused_and_unchanged(change, message):
    layers = stack(change=change)
    modules, state = list(layers.modules()), copy.deepcopy(layers.state_dict())
    with pytest.raises(InputError, match=message):
        form_of(layers, 2)
    plan = form_of(stack(), 2)
    for refuse in (
        lambda: share_layers(layers, plan),
        lambda: compress(layers, CompressionConfig(group_size=2), stack=LayerStack(layers)),
    ):
        with pytest.raises(InputError):
            refuse()
    assert list(layers.modules()) == modules
    assert all(torch.equal(value, layers.state_dict()[name]) for name, value in state.items())


def test_refusal_names_the_modules_that_contain_the_weights():
    layers = nn.ModuleList(nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU()) for _ in range(2))
    with pytest.raises(InputError, match=r"layer 0 has no torch.nn.Linear.*; its weights are in Conv1d \(0\)"):
        form_of(layers, 2)
    packed = nn.ModuleList(torch.ao.nn.quantized.Linear(4, 4) for _ in range(2))
    with pytest.raises(InputError, match=r"layer 0 has no torch.nn.Linear.*; its weights are in .*Linear"):
        form_of(packed, 2)
    with pytest.raises(InputError, match="layer 0 is a matrix itself"):
        form_of(nn.ModuleList(nn.Linear(4, 4) for _ in range(2)), 2)
    with pytest.raises(InputError, match="the layers are in a list"):
        form_of([Layer(), Layer()], 2)


def test_shared_layers_are_refused():
    layers = stack()
    share_layers(layers, form_of(layers, 2))
    with pytest.raises(InputError, match="a of layer 0 is already shared"):
        form_of(layers, 2)


def test_weights_tied_within_a_group_are_accepted():
    layers = stack()
    layers[1].a.weight = layers[0].a.weight
    weight = layers[0].a.weight
    shared = share_layers(layers, form_of(layers, 2))
    assert shared["0"]["a"] is layers[1].a.shared_weight is weight


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = stack()


def test_compression_refuses_weights_tied_outside_the_layers():
    """Sharing itself sees only the layers."""
    tied, held, biased = Model(), Model(), Model()
    tied.head = nn.Embedding(8, 6)
    tied.head.weight = tied.layers[2].a.weight
    held.first = held.layers[0].a
    biased.layers[3].a.bias = biased.layers[0].a.bias
    for model, message in (
        (tied, "a of layer 2 is also head.weight of Model"),
        (held, "a of layer 0 is also first of Model"),
        (biased, "a of layer 3 has the same bias as a of layer 0"),
    ):
        with pytest.raises(InputError, match=message):
            compress(model, CompressionConfig(group_size=2), stack=LayerStack(model.layers, model))
        assert not hasattr(model, "shared_weights")


def test_matrices_without_sharing_start_equal_and_are_not_tied():
    """Layers of a group are built with one tensor for each shared matrix, and with separate tensors for the others."""
    dense = tiny_model("s2t_transformer_s").eval()
    rank = "2/2/=3/=32/=4/2"  # the fourth is full rank, which keeps the matrix
    compress(dense, CompressionConfig(group_size=3, rank=rank))
    loaded = tiny_model(encoder_group_size=3, encoder_residual_rank=rank)
    loaded.load_state_dict(dense.state_dict())
    for name, value in dense.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_equality_of_ranks_without_sharing():
    two = Alone(2)
    for one, other, same in ((two, Alone(2), True), (two, 2, False), (2, two, False), (two, Alone(3), False)):
        assert operator.eq(one, other) is same and operator.ne(one, other) is not same
    assert len({Alone(2), 2, Alone(2)}) == 2


NONSENSE = [0, -1, 2.0, 2.5, float("nan"), float("inf"), True, "x", "", "2", None, [2], 1 + 2j, 10**30]


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
def test_any_value_for_a_number_is_used_or_refused(value):
    """Any invalid value raises an InputError and no other exception."""
    layers = stack()
    for options in ({"group_size": value}, {"rank": value}, {"pattern": value}):
        try:
            form = form_of(layers, **options)
        except InputError as error:
            assert any(word in str(error) for word in ("group size", "rank", "pattern")) and len(str(error).splitlines()) == 1
        else:
            share_layers(copy.deepcopy(layers), form)


def test_list_of_groups_with_a_large_gap_is_refused_quickly():
    with pytest.raises(InputError, match="must use every group"):
        form_of(stack(), pattern="0,0,99999999999999,1")
