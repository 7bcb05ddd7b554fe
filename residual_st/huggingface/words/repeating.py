"""Repetition loops: greedy search does not leave a loop before the decoder's last position."""

import torch
import transformers
from torch import Tensor

_LONGEST = 32  # maximum number of words in the repeated sequence
_TIMES, _LEAST = 3, 24  # minimum repeats, and minimum words in total, for a repetition loop


class Repeating(transformers.StoppingCriteria):
    """Stops each text that ends in a repetition loop."""

    def __call__(self, words: Tensor, scores: tuple[Tensor] | None, **_options) -> Tensor:
        """(batch,): True for rows of `words` (batch, words) that end in a repetition loop."""
        is_loop = torch.zeros(len(words), dtype=torch.bool, device=words.device)
        for period in range(1, _LONGEST + 1):
            last = words[:, -max(_LEAST, _TIMES * period) :]
            if last.size(1) == max(_LEAST, _TIMES * period):
                is_loop |= (last[:, period:] == last[:, :-period]).all(1)
        return is_loop
