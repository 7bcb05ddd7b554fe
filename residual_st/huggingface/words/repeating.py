"""Texts that repeat themselves: greedy search does not leave such a loop before the decoder's last position."""

import torch
import transformers
from torch import Tensor

_LONGEST = 32  # words of what is repeated
_TIMES, _LEAST = 3, 24  # so often, and so many words in all, before a text counts as a repetition loop


class Repeating(transformers.StoppingCriteria):
    """Ends each text whose last words are one sequence of words again and again."""

    def __call__(self, words: Tensor, scores: tuple[Tensor] | None, **_options) -> Tensor:
        """(batch,): True for those of `words` (batch, words) that repeat themselves."""
        found = torch.zeros(len(words), dtype=torch.bool, device=words.device)
        for period in range(1, _LONGEST + 1):
            last = words[:, -max(_LEAST, _TIMES * period) :]
            if last.size(1) == max(_LEAST, _TIMES * period):
                found |= (last[:, period:] == last[:, :-period]).all(1)
        return found
