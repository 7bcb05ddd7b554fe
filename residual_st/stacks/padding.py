"""What is padding, in the arguments that a layer is called with."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from residual_st.errors import InputError

Padding = Callable[[tuple, dict], Tensor | None]


def no_padding(arguments: tuple, keywords: dict) -> None:
    """For layers all of whose positions count, whatever they are called with."""


def refuse_masks(arguments: tuple, keywords: dict) -> None:
    """For layers that are called with hidden states alone, all of whose positions then count.

    Raises:
        InputError: for another tensor, which may be a mask: whether it is (batch, time), and what True means in it, the layers do
            not tell.
    """
    given = {**{f"argument {place}": value for place, value in enumerate(arguments, 1)}, **keywords}
    tensors = [name for name, value in given.items() if isinstance(value, Tensor)]
    if len(tensors) > 1:
        raise InputError(
            f"these layers are called with {', '.join(tensors)}, which is more than hidden states; say what is padding by a "
            "LayerStack's `padding`, or `no_padding` if nothing is"
        )


def padding_by_name(layer: nn.Module) -> Padding:
    """A LayerStack's `padding` for layers of this one's class, by the names of their arguments.

    `…padding_mask`, (batch, time), is true for padding, as fairseq and torch have it; `attention_mask` is what `unattended` takes,
    as transformers has it. Layers without an argument of these names are called with hidden states alone (`refuse_masks`).

    The function raises InputError where a layer takes several masks of these names, so that its states may be padded by either.
    """
    order = list(inspect.signature(type(layer).forward).parameters)[1:]

    def padding(arguments: tuple, keywords: dict) -> Tensor | None:
        given = dict(zip(order, arguments)) | keywords
        masks = [name for name in dict.fromkeys([*order, *keywords]) if name.endswith("padding_mask") or name == "attention_mask"]
        if not masks:
            return refuse_masks(arguments, keywords)
        if len(masks) > 1 and any(given.get(name) is not None for name in masks):
            raise InputError(
                f"{type(layer).__name__} takes the masks {', '.join(masks)}; say which is of its own states by a LayerStack's "
                "`padding`"
            )
        mask = given.get(masks[0])
        if mask is None:
            return None
        return unattended(mask) if masks[0] == "attention_mask" else mask.bool()

    return padding


def unattended(mask: Tensor) -> Tensor:
    """The padding (batch, time) of a mask that is 1 for what is there, (batch, time), or says who attends to whom.

    The latter is (batch, 1, time, time), boolean or to be added to the scores.
    """
    if mask.dim() == 4:
        mask = mask[:, 0, -1]  # what the last position attends to: in a causal mask too, all that is there
        return ~mask if mask.dtype == torch.bool else mask < 0
    return mask == 0
