"""What must be known of a kind of Hugging Face model: the form of the files beside this one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from residual_st.huggingface.words import OwnWords
from residual_st.stacks import KnownLayers


def get_encoder(model: nn.Module) -> nn.Module:
    """Of models with a decoder."""
    return model.get_encoder()


@dataclass(frozen=True)
class Kind:
    """A kind of Hugging Face model.

    Attributes:
        name: as docs/kinds.md has it.
        models: names of the classes of whole models -> how they make their own words. Folders hold one of these.
        encoder: its layers; None where they are another kind's.
        encode: the module of a whole model that is given the audio and runs these layers.
        in_windows: whether the model is given half a minute at a time, whatever is in it, and not utterances with a mask.
        in_short_windows: whether its windows may be shorter, as `short_windows` makes them.
        asks_for_mask: whether the feature extractor makes a mask only when it is told to.
        decoder: its layers, which attend to the encoder's states; None where there are none, or they are not known.
    """

    name: str
    models: Mapping[str, OwnWords]
    encoder: KnownLayers | None
    encode: Callable[[nn.Module], nn.Module] = get_encoder
    in_windows: bool = False
    in_short_windows: bool = False
    asks_for_mask: bool = False
    decoder: KnownLayers | None = None
