"""Speech2Text, fairseq's speech Transformer."""

from residual_st.huggingface.kinds.kind import Kind
from residual_st.huggingface.kinds.whisper import decoder_layers, symmetries
from residual_st.huggingface.words import DecodedWords
from residual_st.stacks import KnownLayers

KIND = Kind(
    "speech2text",
    models={"Speech2TextForConditionalGeneration": DecodedWords()},
    encoder=KnownLayers(layers=("Speech2TextEncoderLayer",), symmetries=symmetries),
    decoder=decoder_layers("Speech2TextDecoderLayer"),
)
