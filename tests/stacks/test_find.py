"""Locating the stacks of layers in models of any library."""

import pytest
import torch
from conftest import tiny_model
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder, Wav2Vec2Config
from fairseq.modules import LayerDropModuleList
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.conformer_layer import ConformerEncoderLayer
from torch import nn

from residual_st.compression import CompressionConfig, compress
from residual_st.errors import InputError
from residual_st.sharing import form_of, matrices, share_layers
from residual_st.stacks import heaviest_stack, stack_of, stacks_in


class Mixture(nn.Module):
    """A layer that contains a list."""

    def __init__(self, width=8):
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, width)) for _ in range(3))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.small = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Mixture() for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(50, 50) for _ in range(2))
        self.mixed = nn.ModuleList([nn.Sequential(nn.Linear(50, 50)), Mixture(50)])
        self.norms = nn.ModuleList(nn.LayerNorm(50) for _ in range(2))
        self.alone = nn.ModuleList([nn.Sequential(nn.Linear(50, 50))])


def test_stacks_are_lists_of_layers_of_one_class_with_matrices():
    """A list inside a layer of a stack is part of that stack. Other lists are separate stacks."""
    model = Model()
    assert list(stacks_in(model)) == ["mixed.1.experts", "encoder.layers", "small"]
    assert heaviest_stack(model.encoder) == ("layers", model.encoder.layers)
    assert heaviest_stack(model.encoder.layers) == ("", model.encoder.layers)
    assert heaviest_stack(model, "small")[1] is model.small


def test_order_of_stacks_does_not_depend_on_sharing():
    model = nn.Module()
    model.light = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(4))
    model.heavy = nn.ModuleList(nn.Sequential(nn.Linear(8, 10)) for _ in range(4))
    share_layers(model.heavy, form_of(model.heavy, 4, rank=0))
    assert heaviest_stack(model)[0] == "heavy"


def test_unknown_stack_is_refused_with_the_known_names():
    message = r"Model has no stack of layers 'heads'; it must be one of mixed.1.experts, encoder.layers, small"
    with pytest.raises(InputError, match=message):
        heaviest_stack(Model(), "heads")
    with pytest.raises(InputError, match="LayerNorm has no nn.ModuleList of two or more layers of one class that contain matrices"):
        heaviest_stack(nn.LayerNorm(3))


def test_stacks_of_fairseq_encoders_are_located():
    assert heaviest_stack(tiny_model("s2t_transformer_s").encoder)[0] == "transformer_layers"
    wav2vec = TransformerEncoder(
        Wav2Vec2Config(
            encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_layers=3, conv_pos_groups=4, encoder_attention_heads=2
        )
    )
    assert heaviest_stack(wav2vec)[0] == "layers"


def conformer_layer() -> ConformerEncoderLayer:
    return ConformerEncoderLayer(8, 16, 2, 0.0, False, depthwise_conv_kernel_size=3, attn_type="espnet", pos_enc_type="abs")


def run(layers, states):
    for index in range(len(layers)):
        states, _ = layers[index](states, None)
    return states


def test_checkpointed_layers_and_layerdrop_lists_are_stacks():
    """Activation checkpointing replaces `forward`. LayerDrop skips layers when the list is iterated in training."""
    torch.manual_seed(1)
    model = nn.Module()
    model.layers = LayerDropModuleList(0.9, [checkpoint_wrapper(conformer_layer()) for _ in range(4)])
    name, layers = heaviest_stack(model)
    assert (name, len(layers), model.training) == ("layers", 4, True)
    states = torch.randn(7, 2, 8)
    before = run(model.eval().layers, states)
    result = compress(model.train(), CompressionConfig(group_size=2, rank=8), stack=stack_of(layers))
    assert len(result.errors) == 4
    torch.testing.assert_close(run(model.eval().layers, states), before, rtol=1e-4, atol=1e-5)
    assert {name for name, _ in matrices(layers[3])} >= {"conv_module.pointwise_conv1", "self_attn.linear_q", "ffn1.w_1"}
