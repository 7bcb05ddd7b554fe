"""Stacks of layers of any class: their arguments and the calls of their matrices are determined automatically."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from residual_st.compat import drop_fused_copies
from residual_st.stacks.layer_stack import LayerStack
from residual_st.stacks.padding import padding_by_name


def describe_stack(layers: nn.ModuleList, owner: nn.Module | None = None, **known: Any) -> LayerStack:
    """The LayerStack of layers of any class.

    By default padding is found by the names of a layer's arguments (`padding_by_name`), fairseq 0.12.2's second copy of the weights
    is dropped, fairseq's attention modules call their projections while they are observed, and units are not aligned.

    Args:
        owner: the module that gets the shared weights.
        known: fields of LayerStack, such as `symmetries`, that replace these defaults.
    """
    if not len(layers):
        return LayerStack(layers, owner)  # raises an error for these layers
    defaults = {"padding": padding_by_name(layers[0]), "prepare": drop_fused_copies, "observing": projecting}
    return LayerStack(layers, owner, **{**defaults, **known})


@contextlib.contextmanager
def projecting(layers: nn.ModuleList) -> Iterator[None]:
    """Make fairseq's attention modules call their projections; otherwise they pass the weights to torch's fused function."""
    name = "skip_embed_dim_check"
    with _set(name, {module: True for module in layers.modules() if hasattr(module, name)}):
        yield


@contextlib.contextmanager
def keeping_activations(*models: nn.Module) -> Iterator[None]:
    """Turn off fairseq's `--checkpoint-activations`, which computes activations again in the backward pass.

    With it, activations would be observed twice, and `torch.autograd.grad` raises an error.
    """
    name = "precheckpoint_forward"
    modules = [module for model in models for module in model.modules() if hasattr(module, name)]
    with _set("forward", {module: getattr(module, name) for module in modules}):
        yield


@contextlib.contextmanager
def _set(name: str, values: dict[nn.Module, object]) -> Iterator[None]:
    """While the block runs, modules have these values of the attribute `name`."""
    before = {module: getattr(module, name) for module in values}
    for module, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, value in before.items():
            setattr(module, name, value)
