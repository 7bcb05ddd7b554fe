import copy
import io

import pytest
import torch
from fairseq.modules import LayerDropModuleList
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from torch import nn

from residual_st.errors import InputError
from residual_st.sharing import ResidualLinear, form_of, matrices, share_layers


class Block(nn.Module):
    """A layer in plain torch."""

    def __init__(self, width=8):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, width, bias=False))
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return x + self.inner(self.norm(x))


class Stack(nn.Module):
    def __init__(self, layers=7, group_size=3, rank=2, diagonal=True, pattern="adjacent", container=nn.ModuleList):
        super().__init__()
        torch.manual_seed(1)
        self.layers = container([Block() for _ in range(layers)])
        self.shared = share_layers(self.layers, form_of(self.layers, group_size, pattern, rank, diagonal))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def owners(stack):
    return {id(linear.shared_weight) for layer in stack.layers for _, linear in matrices(layer)}


def randomize(stack):
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.3)
    return stack


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def test_shared_weights_are_registered_and_saved_once():
    stack = Stack()
    shapes = [tuple(value.shape) for value in stack.state_dict().values()]
    assert shapes.count((12, 8)) == shapes.count((8, 12)) == 3, "one of each of three groups"
    assert len(list(stack.parameters())) == len(stack.state_dict()) - 1, "layer_groups is the only buffer"
    assert owners(stack) == {id(weight) for group in stack.shared.values() for weight in group.values()}


@pytest.mark.parametrize(
    "move",
    [copy.deepcopy, lambda s: s.half(), lambda s: s.to(torch.float64), lambda s: s.to("meta"), lambda s: s.to_empty(device="cpu")],
    ids=["deepcopy", "half", "double", "meta", "to_empty"],
)
def test_sharing_survives_moving_and_copying(move):
    stack = move(Stack())
    weights = {id(weight) for group in stack.shared.values() for weight in group.values()}
    assert len(weights) == 6
    assert owners(stack) == weights


def test_deepcopy_is_independent():
    stack = randomize(Stack())
    loaded = copy.deepcopy(stack)
    before = stack(X)
    for parameter in loaded.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(stack(X), before)


def test_stack_is_saved_and_loaded():
    stack = randomize(Stack())
    buffer = io.BytesIO()
    torch.save(stack.state_dict(), buffer)
    buffer.seek(0)
    loaded = Stack()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(stack(X), loaded(X))
    assert len(owners(loaded)) == 6


def test_group_size_one_without_residuals_keeps_the_stack():
    torch.manual_seed(1)
    plain = nn.ModuleList([Block() for _ in range(4)])
    stack = Stack(layers=4, group_size=1, rank=0, diagonal=False)
    assert {name.removeprefix("layers."): value.shape for name, value in stack.state_dict().items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    for actual, expected in zip(stack.layers.parameters(), plain.parameters()):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("pattern", ["adjacent", "cycle", "cycle-reverse", "0,1,1,0,2,2,2"])
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("diagonal", [True, False])
def test_initial_residuals_are_zero(pattern, rank, diagonal):
    stack = Stack(rank=rank, diagonal=diagonal, pattern=pattern)
    for group in range(stack.shared.plan.n_groups):
        members = [dict(matrices(stack.layers[index])) for index in stack.shared.plan.layers_of(group)]
        for name in members[0]:
            assert all(torch.equal(member[name].weight, members[0][name].weight) for member in members)
    assert stack(X).isfinite().all()


def test_works_inside_layerdrop_and_activation_checkpointing():
    stack = randomize(Stack(layers=6, container=lambda layers: LayerDropModuleList(0.5, layers)))
    stack.train()
    torch.manual_seed(2)
    stack(X).sum().backward()
    stack.eval()
    plain = stack(X)
    stack.zero_grad()
    plain.sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in stack.named_parameters()}
    for index in range(6):
        checkpoint_wrapper(stack.layers[index])
    stack.zero_grad()
    recomputed = stack(X.clone().requires_grad_())
    recomputed.sum().backward()
    torch.testing.assert_close(recomputed, plain)
    for name, parameter in stack.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])


def test_layers_of_torch_transformers_are_shared():
    layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(4)])
    shared = share_layers(layers, form_of(layers, 2))
    assert [type(linear) for _, linear in matrices(layers[0])] == [ResidualLinear] * 3
    assert len(shared) == 2
    x = X
    for layer in layers:
        x = layer(x)
    x.sum().backward()
    assert layers[3].linear1.up.grad.any()


def test_state_dict_of_another_plan_with_equal_shapes_is_refused():
    with pytest.raises(RuntimeError, match="has the layer groups 0,0,0,1,1,1, but this model has 0,1,0,1,0,1"):
        Stack(layers=6, pattern="cycle").load_state_dict(Stack(layers=6).state_dict())


@pytest.mark.parametrize(
    ("rank", "message"), [(-1, "it must be a number of at least 0"), (9, "smaller side is 8; it must be from 0 to 8")]
)
def test_rank_that_does_not_fit_is_refused(rank, message):
    with pytest.raises(InputError, match=f"residual rank {rank} .*{message}"):
        Stack(rank=rank)


def test_different_layers_and_a_plan_of_another_length_are_refused():
    with pytest.raises(InputError, match="layer 1 has different matrices from layer 0"):
        form_of(nn.ModuleList([Block(8), Block(6)]), 2)
    with pytest.raises(InputError, match="for 3 layers, but the stack has 2"):
        share_layers(nn.ModuleList([Block(), Block()]), form_of(nn.ModuleList(Block() for _ in range(3)), 3))
