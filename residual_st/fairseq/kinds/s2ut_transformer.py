"""fairseq's speech-to-unit and speech-to-spectrogram Transformers, whose encoder is that of `s2t_transformer`."""

from residual_st.fairseq.kinds.kind import Kind
from residual_st.fairseq.kinds.s2t_transformer import ENCODER
from residual_st.fairseq.kinds.text_decoder import DECODER

KIND = Kind("s2ut_transformer", models=("s2ut_transformer", "s2spect_transformer"), encoder=ENCODER, decoder=DECODER)
