"""fairseq's text Transformer."""

from dataclasses import replace

from residual_st.fairseq.kinds.kind import Kind
from residual_st.fairseq.kinds.s2t_transformer import ENCODER
from residual_st.fairseq.kinds.text_decoder import DECODER

KIND = Kind(
    "transformer",
    models=("transformer",),
    encoder=replace(ENCODER, path="encoder.layers"),
    decoder=DECODER,
    source_words="encoder.embed_tokens.weight",
)
