"""fairseq's Conformers: `s2t_conformer`, with fairseq's or ESPnet's attention, and the speech-to-unit models."""

from fairseq.models import FairseqEncoder
from fairseq.models.speech_to_text.s2t_conformer import S2TConformerEncoder
from fairseq.modules.conformer_layer import ConformerEncoderLayer
from fairseq.modules.espnet_multihead_attention import RelPositionMultiHeadedAttention
from fairseq.modules.multihead_attention import MultiheadAttention

from residual_st.fairseq.kinds.kind import EncoderParts, Kind, Part
from residual_st.fairseq.kinds.text_decoder import DECODER
from residual_st.fairseq.layers.conformer_layer import ResidualConformerEncoderLayer
from residual_st.stacks.symmetries import ESPNET, Symmetry, attention_heads, feed_forward_units


def _symmetries(layer: ConformerEncoderLayer) -> list[Symmetry]:
    halves = [feed_forward_units(f"{name}.w_1", f"{name}.w_2", getattr(layer, name).activation) for name in ("ffn1", "ffn2")]
    attention = layer.self_attn
    if isinstance(attention, MultiheadAttention):
        return [attention_heads("self_attn", attention.num_heads), *halves]
    # fairseq's rotary positions rotate the attention's inputs, not its queries and keys
    positions = "relative" if isinstance(attention, RelPositionMultiHeadedAttention) else "absolute"
    return [attention_heads("self_attn", attention.h, ESPNET, positions), *halves]


def _parts(encoder: FairseqEncoder) -> EncoderParts | None:
    if type(encoder) is not S2TConformerEncoder:
        return None
    return EncoderParts(
        subsampler=encoder.subsample,
        scale=encoder.embed_scale,
        has_positions=encoder.pos_enc_type == "abs",
        projection=encoder.linear,
        layers=encoder.conformer_layers,
        norm=None,
        ctc=None,
    )


ENCODER = Part(
    path="encoder.conformer_layers",
    output_projections=frozenset({"w_2", "out_proj", "linear_out", "pointwise_conv2"}),
    layers=(ConformerEncoderLayer,),
    symmetries=_symmetries,
    parts=_parts,
    faster={ConformerEncoderLayer: ResidualConformerEncoderLayer},
)

KIND = Kind(
    "s2t_conformer",
    models=("s2t_conformer", "s2ut_conformer", "s2spect_conformer", "unity_conformer", "s2spect2_conformer"),
    encoder=ENCODER,
    decoder=DECODER,
)
