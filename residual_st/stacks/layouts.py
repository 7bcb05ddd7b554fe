"""Which dimensions of states are utterances and time, determined by comparing shapes with those of masks.

Layouts differ between layers and between the matrices of a layer: fairseq's states are (time, batch, width), a Conformer's
convolutions and ESPnet's attention are batch first, some matrices get each head (batch, heads, time, size), and the matrix of
relative positions gets no utterances (1, 2 time - 1, width).
"""

import math
from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

from residual_st.errors import InputError

STATES = "hidden states"  # the name of a layer's own states, among names of matrices

Layout = tuple[int, int] | None  # dimensions of utterances and time; None for inputs that are the same for all utterances


class UnclearLayoutError(InputError):
    """Several layouts fit a shape, such as with equal numbers of utterances and positions; another batch may resolve this."""


class Layouts:
    """Layouts of a stack's states: of its layers under `STATES`, and of the inputs and outputs of each matrix under its name.

    A layout must fit all batches so far.
    """

    def __init__(self) -> None:
        self._fitting: dict[str, set[Layout]] = {}

    def see(self, name: str, states: Tensor, padding: Tensor | None) -> None:
        """Learn from states (…, width) and a mask (batch, time)."""
        if padding is not None:
            fitting = _fitting(states.shape[:-1], padding.shape)
            self._fitting[name] = self._fitting.get(name, fitting) & fitting

    def rows(self, name: str, states: Tensor, padding: Tensor | None) -> Tensor:
        """States (…, n), or their gradients, as (positions without padding, n).

        Raises:
            UnclearLayoutError: if several layouts still fit.
            InputError: if the mask fits no layout.
        """
        rows = states.flatten(0, -2)
        if padding is None:
            return rows
        self.see(name, states, padding)
        leading, of = states.shape[:-1], name if name == STATES else f"the inputs of {name}"
        kept = [_kept(layout, leading, padding) for layout in self._fitting[name]]
        if not kept:
            raise InputError(
                f"a mask of shape {tuple(padding.shape)} does not fit {of}, of shape {tuple(states.shape)}, as (batch, time) in "
                "any order, or not in the order of earlier batches; define the padding by a LayerStack's `padding`"
            )
        if not all(one.equal(kept[0]) for one in kept):
            raise UnclearLayoutError(
                f"{of} of shape {tuple(states.shape)} fit a mask of shape {tuple(padding.shape)} in several ways; give a batch in "
                "which the numbers of utterances, positions and heads differ"
            )
        return rows[kept[0]]


def _fitting(leading: Sequence[int], mask: Sequence[int]) -> set[Layout]:
    """The layouts of states (shape without width) that a mask fits."""
    if len(mask) != 2:
        return set()
    batch, time = mask
    places = permutations(range(len(leading)), 2)
    fitting: set[Layout] = {(one, two) for one, two in places if (leading[one], leading[two]) == (batch, time)}
    lengths = [size for size in leading if size != 1]
    if lengths in ([time], [2 * time - 1]) and (batch > 1 or lengths == [2 * time - 1]):
        fitting.add(None)
    if sorted(leading) == sorted((batch, 2 * time - 1)):  # for example relative positions repeated for each utterance
        fitting.add(None)
    return fitting


def _kept(layout: Layout, leading: Sequence[int], padding: Tensor) -> Tensor:
    """True for positions without padding, in the order of the flattened states."""
    if layout is None:
        return padding.new_ones(math.prod(leading), dtype=torch.bool)
    batch, time = layout
    places = [1] * len(leading)
    places[batch], places[time] = padding.shape
    ordered = padding if batch < time else padding.T
    return ~ordered.bool().reshape(places).expand(leading).flatten()
