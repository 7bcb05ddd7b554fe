"""The exported graph of fairseq's Conformer computes what fairseq does."""

from argparse import Namespace
from collections import Counter

import numpy as np
import onnxruntime
import pytest
import spox
import torch
from conftest import TINY, tiny_model
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.speech_to_text.s2t_conformer import S2TConformerEncoder

from residual_st.errors import InputError
from residual_st.export.encoder import encoded, encoder_graph
from residual_st.export.fairseq_input import filterbank_of
from residual_st.export.fairseq_model import encoder_parts
from residual_st.export.products import Products
from residual_st.fairseq.kinds import s2t_conformer
from residual_st.fairseq.model_input import ModelInput
from residual_st.sharing import form_of, share_layers

ABSOLUTE, RELATIVE, ROTARY = ({"attn_type": "espnet", "pos_enc_type": kind} for kind in ("abs", "rel_pos", "rope"))
FLAGS = [{}, {"no_scale_embedding": True}, {"pos_enc_type": "rope"}, ABSOLUTE, RELATIVE, ROTARY]
WIDTH, INNER, LAYERS = 32, 48, 4


def conformer(group_size: int = 0, rank: int = 3, **options) -> S2TConformerEncoder:
    """A small encoder with random parameters, so that every part has an effect. It shares layers if `group_size` is given."""
    torch.manual_seed(1)
    flags = Namespace(**{**TINY, "encoder_layers": LAYERS, "depthwise_conv_kernel_size": 7, "fp16": False, **options})
    flags.encoder_freezing_updates, flags.conv_version = 0, getattr(flags, "conv_version", "s2t_transformer")
    ARCH_CONFIG_REGISTRY["s2t_conformer"](flags)
    encoder = S2TConformerEncoder(flags).eval()
    if group_size:
        encoder.shared_weights = share_layers(encoder.conformer_layers, form_of(encoder.conformer_layers, group_size, rank=rank))
    for name, parameter in encoder.named_parameters():
        if parameter.dim() == 1 or "up" in name:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    for norm in (module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm1d)):
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2.0)
    return encoder


def session(encoder: S2TConformerEncoder, precision: str) -> onnxruntime.InferenceSession:
    """The graph without the filterbank, which test_features.py tests."""
    frames = spox.argument(spox.Tensor(np.float32, ("batch", "frames", 80)))
    counts = spox.argument(spox.Tensor(np.int64, ("batch",)))
    outputs = encoded(s2t_conformer.ENCODER.parts(encoder), Products(precision), frames, counts)
    return onnxruntime.InferenceSession(spox.build({"frames": frames, "counts": counts}, outputs).SerializeToString())


@torch.no_grad()
def difference(run: onnxruntime.InferenceSession, encoder: S2TConformerEncoder, *counts: int) -> float:
    """The largest difference between the states of both, for a batch of utterances with these numbers of frames."""
    frames = torch.randn(len(counts), max(counts), 80, generator=torch.Generator().manual_seed(1))
    for row, count in zip(frames, counts):
        row[count:] = 0  # as fairseq pads
    states, lengths = run.run(["states", "state_lengths"], {"frames": frames.numpy(), "counts": np.array(counts)})
    expected = encoder(frames, torch.tensor(counts))
    padding = expected["encoder_padding_mask"]
    assert lengths.tolist() == (states.shape[1] - padding[0].sum(1) if padding else torch.tensor([states.shape[1]])).tolist()
    return float(np.abs(states - expected["encoder_out"][0].transpose(0, 1).numpy()).max())


@pytest.mark.parametrize("group_size", [0, 2])
@pytest.mark.parametrize("flags", FLAGS)
def test_states_equal_those_of_fairseq(flags, group_size):
    encoder = conformer(group_size, **flags)
    run = session(encoder, "fp32")
    for counts in [(1,), (4,), (6,), (203,), (1500,), (90, 41, 90, 7)]:
        assert difference(run, encoder, *counts) < 1e-4, counts
    assert 1e-4 < difference(session(encoder, "int8"), encoder, 203) < 0.2


@pytest.mark.parametrize("flags", [{}, RELATIVE])
def test_each_shared_matrix_is_one_initializer(flags):
    encoder = conformer(2, rank=5, **flags)
    graph = encoder_graph(s2t_conformer.ENCODER.parts(encoder), filterbank_of(ModelInput()), "fp32").graph
    shapes = Counter(tuple(tensor.dims) for tensor in graph.initializer)
    groups = LAYERS // 2
    assert shapes[WIDTH, 3 * WIDTH] == groups  # queries, keys and values
    assert shapes[WIDTH, 2 * WIDTH] == groups  # the pointwise convolution before the gate
    assert shapes[WIDTH, INNER - WIDTH] == shapes[INNER - WIDTH, WIDTH] == 2 * groups  # two feed-forward blocks, no diagonal
    stored = sum(np.prod(tensor.dims) for tensor in graph.initializer)
    owned = sum(parameter.numel() for parameter in encoder.parameters())
    assert owned < stored < owned * 1.1  # and tables of the filterbank


def test_unsupported_options_are_refused_by_name():
    def refused(encoder, message):
        with pytest.raises(InputError, match=message):
            encoder_graph(s2t_conformer.ENCODER.parts(encoder), filterbank_of(ModelInput()), "fp32")

    two_dimensional = conformer(conv_version="convtransformer", conv_out_channels=8)
    refused(two_dimensional, "only encoders with --conv-version s2t_transformer can be exported")
    encoder = conformer()
    for layer in encoder.conformer_layers:
        layer.self_attn = torch.nn.MultiheadAttention(WIDTH, 4)
    refused(encoder, "an encoder with MultiheadAttention cannot be exported; its attention must be one of")


def test_unknown_subclass_is_refused():
    """It may compute something else, such as chunked attention."""
    model = tiny_model("s2t_conformer", fp16=False)
    model.encoder.__class__ = type("ChunkS2TConformerEncoder", (S2TConformerEncoder,), {})
    with pytest.raises(InputError, match="a model with ChunkS2TConformerEncoder cannot be exported; it must be"):
        encoder_parts(model)
