"""Wav2Vec2-BERT, the speech encoder of SeamlessM4T v2, with or without a CTC head."""

from residual_st.huggingface.kinds.conformer import known_conformers
from residual_st.huggingface.kinds.kind import MASKED, Kind, through_base
from residual_st.huggingface.words import CtcWords, EncodedStates

KIND = Kind(
    "wav2vec2_bert",
    models={"Wav2Vec2BertForCTC": CtcWords(), "Wav2Vec2BertModel": EncodedStates()},
    encoder=known_conformers("Wav2Vec2BertEncoderLayer"),
    encode=through_base,
    may_lack=MASKED,
)
