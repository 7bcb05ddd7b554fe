"""Whisper, English and multilingual."""

from typing import Any

from torch import Tensor

from residual_st.huggingface.kinds.kind import Kind
from residual_st.huggingface.words import DecodedWords
from residual_st.stacks import KnownLayers
from residual_st.stacks.padding import unattended
from residual_st.stacks.symmetries import Symmetry, symmetries_of


def symmetries(layer: Any) -> list[Symmetry]:
    """Symmetries of a layer. Positions are only added to the first layer's input."""
    return symmetries_of(layer, ["self_attn"], layer.activation_fn)


def decoder_symmetries(layer: Any) -> list[Symmetry]:
    """Symmetries of a decoder layer, the same as the encoder's."""
    return symmetries_of(layer, ["self_attn", "encoder_attn"], layer.activation_fn)


def decoder_layers(*classes: str) -> KnownLayers:
    """Layers of decoders with BART's interface."""
    known = {"memory_matrices": ("encoder_attn.k_proj", "encoder_attn.v_proj"), "memory_padding": _memory_padding}
    return KnownLayers(layers=classes, symmetries=decoder_symmetries, known=known)


def _memory_padding(_arguments: tuple, keywords: dict) -> Tensor | None:
    mask = keywords.get("encoder_attention_mask")
    return None if mask is None else unattended(mask)


KIND = Kind(
    "whisper",
    models={"WhisperForConditionalGeneration": DecodedWords()},
    encoder=KnownLayers(layers=("WhisperEncoderLayer",), symmetries=symmetries),
    in_windows=True,
    decoder=decoder_layers("WhisperDecoderLayer"),
)
