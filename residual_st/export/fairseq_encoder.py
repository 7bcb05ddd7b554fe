"""What the graph of an encoder needs of fairseq's."""

import spox.opset.ai.onnx.v21 as op
from fairseq.models import FairseqEncoder
from fairseq.models.speech_to_text.s2t_conformer import S2TConformerEncoder
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder
from spox import Var

from residual_st.errors import InputError
from residual_st.export.conformer import conformer_layers
from residual_st.export.constants import ints, number
from residual_st.export.encoder import EncoderParts
from residual_st.export.layers import Branches, attention_mask, with_positions


def encoder_parts(encoder: FairseqEncoder) -> EncoderParts:
    """Raises InputError if there is no graph of such encoders."""
    if isinstance(encoder, S2TTransformerEncoder):
        return transformer_parts(encoder)
    if isinstance(encoder, S2TConformerEncoder):
        return conformer_parts(encoder)
    raise InputError(
        f"a model with {type(encoder).__name__} cannot be exported; its encoder must be s2t_transformer's or s2t_conformer's"
    )


def transformer_parts(encoder: S2TTransformerEncoder) -> EncoderParts:
    width = encoder.embed_positions.embedding_dim

    def layers(branches: Branches, x: Var, inside: Var) -> Var:
        x = with_positions(op.mul(x, number(encoder.embed_scale)), inside, width)
        x, mask = op.reshape(x, ints(-1, width)), attention_mask(inside)
        for layer in encoder.transformer_layers:
            x = branches.encoder_layer(x, layer, mask)
        return x if encoder.layer_norm is None else branches.products.norm(x, encoder.layer_norm)

    return EncoderParts(encoder.subsample, layers, encoder.ctc_proj)


def conformer_parts(encoder: S2TConformerEncoder) -> EncoderParts:
    width = encoder.linear.in_features

    def layers(branches: Branches, x: Var, inside: Var) -> Var:
        x = op.mul(x, number(encoder.embed_scale))
        if encoder.pos_enc_type == "abs":
            x = with_positions(x, inside, width)
        x = branches.products.linear(op.reshape(x, ints(-1, width)), encoder.linear)
        return conformer_layers(branches, x, encoder.conformer_layers, attention_mask(inside))

    return EncoderParts(encoder.subsample, layers)
