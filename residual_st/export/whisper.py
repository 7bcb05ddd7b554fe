"""Whisper as graphs. Shorter audio is padded to half a minute, the only length that the model knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v21 as op
from spox import Var
from spox._future import initializer

from residual_st.errors import InputError
from residual_st.export.build import build
from residual_st.export.constants import integer, ints, number
from residual_st.export.convolution import convolved
from residual_st.export.decoder import DecoderParts, heads_at_two_thirds
from residual_st.export.layers import Branches, transformer
from residual_st.export.products import Products
from residual_st.export.spectrum import energies, waves

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

RANGE = 8.0  # log10 energies are clipped at this distance below the loudest


def encoder_graph(model: WhisperForConditionalGeneration, extractor: WhisperFeatureExtractor, precision: str) -> onnx.ModelProto:
    """`samples` (batch, n), at most half a minute, and `lengths` (batch,), after which samples are 0 -> `states` (batch, 1500,
    width) and `state_lengths` (batch,), all 1500."""
    samples = spox.argument(spox.Tensor(np.float32, ("batch", "samples")))
    lengths = spox.argument(spox.Tensor(np.int64, ("batch",)))
    encoder, products = model.model.encoder, Products(precision)
    x = log_mel(samples, extractor)
    for conv in (encoder.conv1, encoder.conv2):
        x = op.gelu(convolved(x, conv, products))
    batch, time = op.shape(x, start=0, end=1), op.shape(x, start=1, end=2)
    x = op.add(x, products.constant(encoder.embed_positions.weight))
    x = op.reshape(x, ints(-1, encoder.embed_positions.weight.size(1)))
    x = transformer(Branches(products, batch, time), x, None, encoder.layers)
    states = op.reshape(products.norm(x, encoder.layer_norm), op.concat([batch, time, ints(-1)], axis=0))
    state_lengths = op.add(op.mul(lengths, integer(0)), time)
    return build({"samples": samples, "lengths": lengths}, {"states": states, "state_lengths": state_lengths})


def decoder_parts(model: WhisperForConditionalGeneration) -> DecoderParts:
    decoder = model.model.decoder

    def position(products: Products, step: Var) -> Var:
        return products.rows(decoder.embed_positions.weight, op.reshape(step, ints(1)))

    heads = getattr(model.generation_config, "alignment_heads", None) or []  # used by Whisper's authors for word timestamps
    there = {(layer, head) for layer, each in enumerate(decoder.layers) for head in range(each.encoder_attn.num_heads)}
    alignment = [(layer, head) for layer, head in heads if (layer, head) in there] or heads_at_two_thirds(decoder.layers)
    embedding = decoder.embed_tokens.weight
    return DecoderParts(decoder.layers, embedding, 1.0, position, None, decoder.layer_norm, model.proj_out, alignment)


def log_mel(samples: Var, extractor: WhisperFeatureExtractor) -> Var:
    """(batch, n) -> (batch, 3000, bins): the feature extractor's log-mel spectrogram of half a minute.

    Raises:
        InputError: if the extractor's settings differ from the original Whisper's.
    """
    size, hop = extractor.n_fft, extractor.hop_length
    if (size, hop, extractor.sampling_rate) != (400, 160, 16_000) or getattr(extractor, "dither", False):
        raise InputError("only Whisper models with feature frames of 400 samples every 160 samples at 16 kHz can be exported")
    missing = op.sub(ints(extractor.n_samples), op.shape(samples, start=1, end=2))
    padded = op.pad(samples, op.concat([ints(0), missing], axis=0), axes=ints(1))
    padded = op.pad(padded, ints(size // 2, size // 2), axes=ints(1), mode="reflect")
    window = initializer((0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32))
    filters = initializer(extractor.mel_filters.astype(np.float32))
    bands = energies(padded, op.mul(waves(size, size), window), size, hop, filters)
    bands = op.slice(bands, ints(0), ints(extractor.nb_max_frames), ints(1))  # without the last frame, as in the authors' code
    logs = op.mul(op.log(op.max([bands, number(1e-10)])), number(1 / np.log(10)))
    loudest = op.reduce_max(logs, ints(1, 2))
    return op.mul(op.add(op.max([logs, op.sub(loudest, number(RANGE))]), number(4.0)), number(0.25))
