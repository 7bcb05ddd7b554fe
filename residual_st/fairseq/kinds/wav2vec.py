"""wav2vec 2.0 and HuBERT with a CTC head or a decoder: `wav2vec_ctc`, `wav2vec_seq2seq`, `hubert_ctc`, `hubert_seq2seq`."""

from dataclasses import replace

from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer

from residual_st.fairseq.kinds.kind import Kind, Part
from residual_st.fairseq.kinds.text_decoder import DECODER
from residual_st.stacks.symmetries import Symmetry, symmetries_of


def _symmetries(layer: TransformerSentenceEncoderLayer) -> list[Symmetry]:
    return symmetries_of(layer, ["self_attn"], layer.activation_fn)


CTC_ENCODER = Part(
    path="w2v_encoder.w2v_model.encoder.layers",
    output_projections=frozenset({"out_proj", "fc2"}),
    layers=(TransformerSentenceEncoderLayer,),
    symmetries=_symmetries,
)

CTC = Kind(
    "wav2vec_ctc",
    models=("wav2vec_ctc", "hubert_ctc", "wav2vec2_laser"),
    encoder=CTC_ENCODER,
    target_words="w2v_encoder.proj.weight",
    clusters="w2v_encoder.w2v_model.label_embs_concat",
    of_samples=True,
)

SEQ2SEQ = Kind(
    "wav2vec_seq2seq",
    models=("wav2vec_seq2seq", "hubert_seq2seq"),
    encoder=replace(CTC_ENCODER, path="encoder.w2v_model.encoder.layers"),
    clusters="encoder.w2v_model.label_embs_concat",
    decoder=DECODER,
    of_samples=True,
)
