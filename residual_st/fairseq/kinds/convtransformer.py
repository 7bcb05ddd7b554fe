"""fairseq's `convtransformer`: a speech Transformer after two-dimensional convolutions."""

from residual_st.fairseq.kinds.kind import Kind
from residual_st.fairseq.kinds.s2t_transformer import ENCODER
from residual_st.fairseq.kinds.text_decoder import DECODER

KIND = Kind("convtransformer", models=("convtransformer",), encoder=ENCODER, decoder=DECODER)
