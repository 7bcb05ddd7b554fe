"""The parts of fairseq's decoder for the graphs."""

import spox.opset.ai.onnx.v21 as op
from fairseq.models import FairseqDecoder
from fairseq.models.speech_to_text.s2t_transformer import TransformerDecoderScriptable
from spox import Var

from residual_st.errors import InputError
from residual_st.export.constants import ints
from residual_st.export.decoder import DecoderParts, heads_at_two_thirds
from residual_st.export.layers import sinusoids
from residual_st.export.products import Products
from residual_st.fairseq.kinds.text_decoder import S2TResidualTransformerDecoder

_KNOWN = (TransformerDecoderScriptable, S2TResidualTransformerDecoder)  # other classes may compute something else


def decoder_parts(decoder: FairseqDecoder) -> DecoderParts:
    """The decoder's parts. Raises InputError for unsupported parts."""
    _check(decoder)

    def position(products: Products, step: Var) -> Var:
        positions = decoder.embed_positions
        if hasattr(positions, "weight"):  # learned
            return products.rows(positions.weight, op.reshape(op.add(step, ints(positions.padding_idx + 1)), ints(1)))
        return sinusoids(op.reshape(step, ints(1)), decoder.embed_tokens.embedding_dim)

    return DecoderParts(
        decoder.layers,
        decoder.embed_tokens.weight,
        decoder.embed_scale,
        None if decoder.embed_positions is None else position,
        decoder.layernorm_embedding,
        decoder.layer_norm,
        decoder.output_projection,
        heads_at_two_thirds(decoder.layers),
    )


def _check(decoder: FairseqDecoder) -> None:
    if type(decoder) not in _KNOWN:
        raise InputError(f"a model with {type(decoder).__name__} cannot be exported; its decoder must be that of s2t_transformer")
    for name, flag in {
        "adaptive_softmax": "--adaptive-softmax-cutoff",
        "project_in_dim": "--decoder-input-dim other than the decoder's width",
        "project_out_dim": "--decoder-output-dim other than the decoder's width",
    }.items():
        if getattr(decoder, name, None) is not None:
            raise InputError(f"a decoder with {flag} cannot be exported")
    if decoder.cross_self_attention or any(layer.cross_self_attention for layer in decoder.layers):
        raise InputError("a decoder with --cross-self-attention cannot be exported")
