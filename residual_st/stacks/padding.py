"""Padding masks in a layer's arguments."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from residual_st.errors import InputError

Padding = Callable[[tuple[Any, ...], dict[str, Any]], Tensor | None]


def no_padding(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """No padding: every position counts, whatever the arguments."""


def refuse_masks(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """No padding, for layers that are called with hidden states only.

    Raises:
        InputError: for another tensor, which may be a mask of unknown layout and meaning.
    """
    by_name = {**{f"argument {place}": value for place, value in enumerate(arguments, 1)}, **keywords}
    tensors = [name for name, value in by_name.items() if isinstance(value, Tensor)]
    if len(tensors) > 1:
        raise InputError(
            f"these layers are called with {', '.join(tensors)}, which may contain a mask; define the padding by a "
            "LayerStack's `padding`, or set it to `no_padding`"
        )


def padding_by_name(layer: nn.Module) -> Padding:
    """A LayerStack's `padding` for layers of this class, by the names of their arguments.

    `…padding_mask` (batch, time) is True for padding, as in fairseq and torch; `attention_mask` is an argument of `unattended`, as
    in transformers. Layers without such arguments must be called with hidden states only (`refuse_masks`).

    The function raises InputError if a layer has several arguments with these names.
    """
    order = list(inspect.signature(type(layer).forward).parameters)[1:]

    def padding(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
        by_name = dict(zip(order, arguments)) | keywords
        masks = [name for name in dict.fromkeys([*order, *keywords]) if name.endswith("padding_mask") or name == "attention_mask"]
        if not masks:
            refuse_masks(arguments, keywords)
            return None
        if len(masks) > 1 and any(by_name.get(name) is not None for name in masks):
            raise InputError(
                f"{type(layer).__name__} takes the masks {', '.join(masks)}; define which one is its own states' by a LayerStack's "
                "`padding`"
            )
        mask = by_name.get(masks[0])
        if mask is None:
            return None
        return unattended(mask) if masks[0] == "attention_mask" else mask.bool()

    return padding


def unattended(mask: Tensor) -> Tensor:
    """The padding (batch, time) of an attention mask: (batch, time) with 1 for real positions, or (batch, 1, time, time).

    The latter is boolean or to be added to the scores.
    """
    if mask.dim() == 4:
        mask = mask[:, 0, -1]  # the last position attends to all real positions, also in a causal mask
        return ~mask if mask.dtype == torch.bool else mask < 0
    return mask == 0
