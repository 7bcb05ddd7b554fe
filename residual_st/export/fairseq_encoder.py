"""What the graph of an encoder needs of fairseq's."""

from functools import partial

from fairseq.models import FairseqEncoder
from fairseq.models.speech_to_text.s2t_conformer import S2TConformerEncoder
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder

from residual_st.errors import InputError
from residual_st.export.conformer import conformer
from residual_st.export.encoder import EncoderParts
from residual_st.export.layers import transformer


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
    return EncoderParts(
        encoder.subsample,
        encoder.embed_scale,
        has_positions=True,
        projection=None,
        layers=partial(transformer, layers=encoder.transformer_layers),
        norm=encoder.layer_norm,
        ctc=encoder.ctc_proj,
    )


def conformer_parts(encoder: S2TConformerEncoder) -> EncoderParts:
    return EncoderParts(
        encoder.subsample,
        encoder.embed_scale,
        has_positions=encoder.pos_enc_type == "abs",
        projection=encoder.linear,
        layers=partial(conformer, layers=encoder.conformer_layers),
        norm=None,
        ctc=None,
    )
