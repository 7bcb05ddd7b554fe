"""`convtransformer_emformer` of fairseq's simultaneous translation."""

from dataclasses import replace

from residual_st.fairseq.kinds.kind import Kind
from residual_st.fairseq.kinds.s2t_transformer import ENCODER
from residual_st.fairseq.kinds.text_decoder import DECODER

_NAME = ENCODER.path.rpartition(".")[2]

KIND = Kind(
    "convtransformer_emformer",
    models=("convtransformer_emformer",),
    # the model also builds and saves a stack of emformer layers that is never called
    encoder=replace(ENCODER, path=f"encoder.conv_transformer_encoder.{_NAME}"),
    decoder=DECODER,
)
