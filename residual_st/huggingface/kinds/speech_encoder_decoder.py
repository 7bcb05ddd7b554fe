"""An encoder of another kind, such as wav2vec 2.0, and a decoder of text."""

from residual_st.huggingface.kinds.kind import MASKED, Kind
from residual_st.huggingface.words import DecodedWords

KIND = Kind(
    "speech_encoder_decoder",
    models={"SpeechEncoderDecoderModel": DecodedWords()},
    encoder=None,
    may_lack=MASKED,
)
