"""Beam search, residual against dense: encoder and decoder shared, with cached keys and values."""

import copy
from collections.abc import Callable

import torch
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from residual_st.benchmark.systems import BINS, FRAMES_PER_SECOND, VOCABULARY, Shape, build_pair

BEAM = 5
WORDS = 30  # length of every hypothesis
TOLERANCE = 1e-3  # maximum difference in the mean log-probability of a hypothesis's words


def searches(
    shape: Shape, batch: int, seconds: float, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Callable[[], Tensor]]:
    """For stock, compact and fast each, a function that translates a batch to 30 words and returns the best scores.

    Raises:
        AssertionError: if their scores differ in float32.
    """
    stock, compact = (model.eval() for model in build_pair(shape))
    fast = copy.deepcopy(compact)
    fast.encoder.inference_mode = fast.decoder.inference_mode = "fast"
    length = round(seconds * FRAMES_PER_SECOND)
    frames = torch.randn(batch, length, BINS, device=device, dtype=dtype)
    sample = {"net_input": {"src_tokens": frames, "src_lengths": torch.full((batch,), length, device=device)}}
    dictionary = Dictionary()
    for index in range(VOCABULARY - len(dictionary)):
        dictionary.add_symbol(str(index))

    def function_of(model) -> Callable[[], Tensor]:
        model.to(device, dtype).prepare_for_inference_(FairseqConfig())
        generator = SequenceGenerator([model], dictionary, beam_size=BEAM, max_len_a=0, max_len_b=WORDS, min_len=WORDS)
        return lambda: torch.stack([best[0]["score"] for best in generator.generate([model], sample)])

    functions = {name: function_of(model) for name, model in {"stock": stock, "compact": compact, "fast": fast}.items()}
    if dtype == torch.float32:
        expected = functions["stock"]()
        for function in functions.values():
            torch.testing.assert_close(function(), expected, rtol=0, atol=TOLERANCE)
    return functions
