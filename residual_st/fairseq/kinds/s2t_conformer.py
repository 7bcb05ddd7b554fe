"""fairseq's conformers: `s2t_conformer`, with its own and with ESPnet's attention, and those that translate into units."""

from fairseq.modules.conformer_layer import ConformerEncoderLayer

from residual_st.fairseq.kinds.kind import Kind, Part
from residual_st.fairseq.kinds.text_decoder import DECODER
from residual_st.stacks.symmetries import FeedForwardUnits, Symmetry


def _symmetries(layer: ConformerEncoderLayer) -> list[Symmetry]:
    return [FeedForwardUnits(f"{name}.w_1", f"{name}.w_2", scalable=False) for name in ("ffn1", "ffn2")]


ENCODER = Part(
    path="encoder.conformer_layers",
    branch_ends=frozenset({"w_2", "out_proj", "linear_out", "pointwise_conv2"}),
    layers=(ConformerEncoderLayer,),
    symmetries=_symmetries,
)

KIND = Kind(
    "s2t_conformer",
    models=("s2t_conformer", "s2ut_conformer", "s2spect_conformer", "unity_conformer", "s2spect2_conformer"),
    encoder=ENCODER,
    decoder=DECODER,
)
