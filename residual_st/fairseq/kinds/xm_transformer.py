"""fairseq's `xm_transformer`: a wav2vec 2.0 or HuBERT encoder, an adaptor and a text decoder."""

from dataclasses import replace

from residual_st.fairseq.kinds.kind import Kind
from residual_st.fairseq.kinds.text_decoder import DECODER
from residual_st.fairseq.kinds.wav2vec import CTC_ENCODER

KIND = Kind(
    "xm_transformer",
    models=("xm_transformer", "unity_xm_transformer"),
    encoder=replace(CTC_ENCODER, path="encoder.w2v_encoder.w2v_model.encoder.layers"),
    decoder=DECODER,
    clusters="encoder.w2v_encoder.w2v_model.label_embs_concat",
    of_samples=True,
)
