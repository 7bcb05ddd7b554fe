"""Permutations and rotations that keep the outputs of each kind of attention, and no weaker restriction does."""

import pytest
import torch
from conftest import tiny_model
from fairseq.modules import RelPositionalEncoding
from fairseq.modules.conformer_layer import ConformerEncoderLayer
from fairseq.modules.rotary_positional_embedding import RotaryPositionalEmbedding, apply_rotary_pos_emb
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from residual_st.compression.alignment import align_group
from residual_st.compression.layer_weights import read_layer, write_layer
from residual_st.errors import InputError
from residual_st.stacks import ESPNET, FAIRSEQ, LayerStack, attention_heads, copied, describe_stack, feed_forward_units, stack_of

WIDTH, HEADS, TIME = 16, 4, 7
MASK = torch.tensor([[False] * TIME, [False] * 4 + [True] * 3])


class Rotary(nn.Module):
    """Attention that rotates queries and keys by position (arXiv 2104.09864). fairseq's rotates the inputs instead."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.positions = RotaryPositionalEmbedding(WIDTH // HEADS, precision=torch.float)

    def forward(self, x):
        heads = [projection(x).unflatten(-1, (HEADS, -1)) for projection in (self.q_proj, self.k_proj, self.v_proj)]
        queries, keys = apply_rotary_pos_emb(*heads[:2], *self.positions(heads[2], seq_len=len(x)))
        attended = nn.functional.scaled_dot_product_attention(*(each.permute(1, 2, 0, 3) for each in (queries, keys, heads[2])))
        return self.out_proj(attended.permute(2, 0, 1, 3).flatten(2))


class RotaryLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = Rotary()

    def forward(self, x, encoder_padding_mask, position_emb):
        return (x + self.self_attn(x),)


def conformer(attention, positions):
    return ConformerEncoderLayer(WIDTH, 24, HEADS, 0.0, False, 3, attn_type=attention, pos_enc_type=positions)


# a layer, the matrices of its attention, and the `positions` for `attention_heads`
LAYERS = {
    "fairseq's attention": (lambda: conformer(None, "abs"), FAIRSEQ, "absolute"),
    "ESPnet's": (lambda: conformer("espnet", "abs"), ESPNET, "absolute"),
    "ESPnet's, rotary inputs": (lambda: conformer("espnet", "rope"), ESPNET, "absolute"),
    "ESPnet's, relative": (lambda: conformer("espnet", "rel_pos"), ESPNET, "relative"),
    "rotary": (RotaryLayer, FAIRSEQ, "rotary"),
}


def drawn(make, seed, count=3):
    torch.manual_seed(seed)
    layers = [make().eval() for _ in range(count)]
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return layers


def change_of_outputs(layers, symmetries) -> float:
    """How much alignment changes the outputs. Asserts that it changes the weights."""
    x = torch.randn(TIME, 2, WIDTH, generator=torch.Generator().manual_seed(1))
    positions = RelPositionalEncoding(TIME, WIDTH)(x)
    before = [layer(x, MASK, positions)[0] for layer in layers]
    weights = [read_layer(layer) for layer in layers]
    for layer, aligned in zip(layers, align_group(weights, symmetries)):
        write_layer(layer, aligned)
    assert any(not torch.equal(read_layer(layers[1])[name].weight, matrix.weight) for name, matrix in weights[1].items())
    changes = [(layer(x, MASK, positions)[0] - output)[~MASK.T].abs().max().item() for layer, output in zip(layers, before)]
    return max(changes)


@pytest.mark.parametrize("kind", LAYERS)
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_alignment_keeps_the_outputs(kind, seed):
    make, parts, positions = LAYERS[kind]
    layers = drawn(make, seed)
    renamings = [attention_heads("self_attn", HEADS, parts, positions)]
    if hasattr(layers[0], "ffn1"):
        renamings += [feed_forward_units(f"{part}.w_1", f"{part}.w_2", layers[0].ffn1.activation) for part in ("ffn1", "ffn2")]
    assert change_of_outputs(layers, renamings) < 1e-5


@pytest.mark.parametrize(
    ("kind", "positions"), [("ESPnet's, relative", "absolute"), ("ESPnet's, relative", "rotary"), ("rotary", "absolute")]
)
def test_weaker_restrictions_change_the_outputs(kind, positions):
    make, parts, _ = LAYERS[kind]
    assert change_of_outputs(drawn(make, 1), [attention_heads("self_attn", HEADS, parts, positions)]) > 0.01


def test_units_before_silu_and_gelu_are_not_scaled():
    activations = {nn.SiLU(): False, nn.GELU(): False, nn.functional.gelu: False, nn.ReLU(): True, torch.relu: True}
    assert {each: feed_forward_units("a", "b", each).scalable for each in activations} == activations


@pytest.mark.parametrize(("option", "left"), [("scale_heads", ["fc1"]), ("scale_fc", ["self_attn.q_proj", "encoder_attn.q_proj"])])
def test_head_scales_and_hidden_norms_exclude_their_units(option, left):
    """Options of fairseq with parameters per head or per hidden unit."""
    model = tiny_model("s2t_transformer_s", **{option: True})
    assert [symmetry.names[0] for symmetry in stack_of(model, "decoder").symmetries] == left


def test_unknown_matrix_names_are_refused():
    layers = nn.ModuleList(drawn(lambda: conformer("espnet", "abs"), 1))
    with pytest.raises(InputError, match="a ConformerEncoderLayer has no matrix self_attn.q_proj; it must be one of ffn1.w_1, "):
        LayerStack(layers, symmetries=[attention_heads("self_attn", HEADS, FAIRSEQ)])


def test_model_can_be_copied_after_a_forward_pass():
    """ESPnet attention keeps its last map, and weight norm its last weight, with their autograd graphs."""
    model = nn.Module()
    model.layers = nn.ModuleList(drawn(lambda: conformer("espnet", "abs"), 1))
    model.positional = nn.utils.weight_norm(nn.Conv1d(WIDTH, WIDTH, 3))
    model.kept = {"states": [model.positional(torch.randn(2, WIDTH, TIME))]}

    def run(model):
        x = torch.ones(TIME, 2, WIDTH)
        for layer in model.layers:
            x, _ = layer(x, MASK)
        return model.positional(x.permute(1, 2, 0))

    expected = run(model)
    duplicate, stack = copied(model, describe_stack(model.layers, model))
    assert stack.layers is duplicate.layers
    assert stack.owner is duplicate
    assert not duplicate.layers[0].self_attn.attn.requires_grad
    assert model.layers[0].self_attn.attn.requires_grad
    assert torch.equal(duplicate.kept["states"][0], model.kept["states"][0])
    assert torch.equal(run(duplicate), expected)
