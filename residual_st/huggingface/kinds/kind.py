"""What must be known of a kind of Hugging Face model: the form of the files beside this one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from residual_st.huggingface.words import OwnWords
from residual_st.stacks import KnownLayers


def through_encoder(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Run the encoder of a model with a decoder."""
    model.get_encoder()(**inputs)


def through_base(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Run a model without its head."""
    model.base_model(**inputs)


MASKED = frozenset({"masked_spec_embed"})  # stands in for frames that training hides


@dataclass(frozen=True)
class Kind:
    """A kind of Hugging Face model.

    Attributes:
        name: as docs/kinds.md has it.
        models: names of the classes of whole models -> how they make their own words. Folders hold one of these.
        encoder: its layers; None where they are another kind's.
        encode: runs these layers on what a whole model is given, and as little else as may be.
        in_windows: whether a model is given half a minute at a time, whatever is in it, and not utterances with a mask.
        may_lack: parameters, by the last part of their names, that folders lack whose models were trained without them.
        decoder: its layers, which attend to the encoder's states; None where there are none, or they are not known.
    """

    name: str
    models: Mapping[str, OwnWords]
    encoder: KnownLayers | None
    encode: Callable[[nn.Module, dict[str, Tensor]], None] = through_encoder
    in_windows: bool = False
    may_lack: frozenset[str] = frozenset()
    decoder: KnownLayers | None = None
