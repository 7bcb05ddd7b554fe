"""Description of a kind of Hugging Face models, filled in by the other files of this folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from torch import Tensor

from residual_st.huggingface.words import OwnWords
from residual_st.stacks import KnownLayers


def through_encoder(model: transformers.PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """Run the encoder of a model with a decoder."""
    model.get_encoder()(**inputs)


def through_base(model: transformers.PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """Run a model without its head."""
    model.base_model(**inputs)


MASKED = frozenset({"masked_spec_embed"})  # replaces masked frames in training


@dataclass(frozen=True)
class Kind:
    """A kind of Hugging Face model.

    Attributes:
        name: name in docs/kinds.md.
        models: class names of whole models, which folders contain -> how they generate their own words.
        encoder: encoder layers; None if they belong to another kind.
        encode: runs the encoder layers on a whole model's input, with as little else as possible.
        in_windows: whether the input is always half a minute, instead of utterances with a mask.
        may_lack: parameters, by the last part of their names, that may be missing in folders trained without them.
        decoder: decoder layers, which attend to the encoder's states; None if there are none or they are unknown.
    """

    name: str
    models: Mapping[str, OwnWords]
    encoder: KnownLayers | None
    encode: Callable[[Any, dict[str, Tensor]], object] = through_encoder
    in_windows: bool = False
    may_lack: frozenset[str] = frozenset()
    decoder: KnownLayers | None = None
