"""SeamlessM4T v2: the speech encoder of the speech-to-text model and of the whole model, which also speaks."""

from __future__ import annotations

import transformers
from torch import Tensor

from residual_st.huggingface.kinds.conformer import known_conformers
from residual_st.huggingface.kinds.kind import Kind
from residual_st.huggingface.quiet import quiet
from residual_st.huggingface.words import AudioBatch, DecodedWords


class _TextWords(DecodedWords):
    """Words of a model that also takes text input, and that warns at each call with speech input."""

    def write(self, model: transformers.PreTrainedModel, inputs: dict[str, Tensor], **generate_kwargs: str | int) -> AudioBatch:
        set_modality = getattr(model, "set_modality", None)
        if set_modality is not None:
            set_modality("speech")
        return super().write(model, inputs, **generate_kwargs)

    def predict(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> Tensor:
        with quiet():
            return super().predict(model, batch)


def _encode(model: transformers.SeamlessM4Tv2Model, inputs: dict[str, Tensor]) -> None:
    model.speech_encoder(**inputs)


_WORDS = _TextWords(tgt_lang="eng")  # translations into English

KIND = Kind(
    "seamless_m4t_v2",
    models={"SeamlessM4Tv2ForSpeechToText": _WORDS, "SeamlessM4Tv2Model": _WORDS},
    encoder=known_conformers("SeamlessM4Tv2ConformerEncoderLayer"),
    encode=_encode,
)
