"""Whisper, English and multilingual."""

from torch import nn

from residual_st.huggingface.kinds.kind import Kind
from residual_st.huggingface.words import DecodedWords
from residual_st.stacks import KnownLayers
from residual_st.stacks.symmetries import Symmetry, symmetries_of


def symmetries(layer: nn.Module) -> list[Symmetry]:
    """Positions are added to the first layer's input alone."""
    return symmetries_of(layer, ["self_attn"], layer.activation_fn)


KIND = Kind(
    "whisper",
    models={"WhisperForConditionalGeneration": DecodedWords()},
    encoder=KnownLayers(layers=("WhisperEncoderLayer",), symmetries=symmetries),
    in_windows=True,
)
