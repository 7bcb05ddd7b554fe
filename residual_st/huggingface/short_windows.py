"""Windows that are shorter than the half minute that an encoder such as Whisper's takes: most of the silence is left out.

What is said stands between half a second of silence and two, whose positions are spread over all that comes before it, and are
those behind it and the last of the half minute. Without the last ones, where positions end early, the decoder does not know that
the speech has ended, and its words begin again and again (docs/real_models.md).
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

BEFORE, BEHIND = 0.5, 2.0  # seconds of silence in a window
_END = 1.0  # of them, at the end of the half minute


def places(seconds: float, whole: float, positions: int, share: float) -> Tensor:
    """The positions of a window, in order.

    Args:
        seconds: of the window, its silence included.
        whole, positions: of the encoder's own window.
        share: of the places where the speech can begin, from 0, half a second after the beginning, to 1, as late as it can.
    """
    rate = positions / whole
    before, end = round(BEFORE * rate), round(_END * rate)
    middle = round(seconds * rate) - before - end
    start = before + round(share * (positions - end - middle - before))
    return torch.cat(
        [
            torch.linspace(0, start - 1, before).round().long(),
            torch.arange(start, start + middle),
            torch.arange(positions - end, positions),
        ]
    )


@contextlib.contextmanager
def at_places(encoder: nn.Module, chosen: Tensor | None) -> Iterator[None]:
    """Have an encoder take features for some of its positions; None for all of them.

    It otherwise refuses them, by the number of positions in its config, and adds all its positions to whatever it is given.
    """
    if chosen is None:
        yield
        return
    whole, most = encoder.embed_positions, encoder.config.max_source_positions
    encoder.embed_positions = nn.Embedding.from_pretrained(whole.weight[chosen])
    encoder.config.max_source_positions = len(chosen)
    try:
        yield
    finally:
        encoder.embed_positions, encoder.config.max_source_positions = whole, most
