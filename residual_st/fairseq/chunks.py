"""Attention in chunks for streaming encoders: flags, and the mask of a forward pass.

Frames are the encoder's, after the subsampler. A frame attends to its own chunk and to some chunks before it, and to nothing after
it: dynamic chunks as in WeNet (Zhang et al., arXiv 2012.05481; Yao et al., arXiv 2102.01547).
"""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from fairseq.models.speech_to_text.s2t_transformer import Conv1dSubsampler
from torch import Tensor, nn

from residual_st.errors import InputError

CHUNK_FLAGS = ("encoder_chunk_frames", "encoder_left_chunks")
LEFT_CHUNKS = 8


def add_chunk_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encoder-chunk-frames",
        metavar="C[,C...]",
        help="encoder frames per chunk (40 ms each, after two convolutions) for streaming: a frame attends to its own chunk and to "
        "--encoder-left-chunks before it. From a list such as 16,32,0, one size is drawn per training batch, and the first is used "
        "in validation and generation. 0 means the whole utterance (default: 0)",
    )
    parser.add_argument(
        "--encoder-left-chunks",
        type=int,
        metavar="L",
        help=f"number of earlier chunks that a frame attends to (default: {LEFT_CHUNKS})",
    )


@dataclass(frozen=True)
class Chunks:
    """Chunked attention of an encoder.

    Attributes:
        frames: chunk sizes in encoder frames; 0 for the whole utterance. The first is used outside training.
        left: number of earlier chunks that a frame attends to.
    """

    frames: tuple[int, ...] = (0,)
    left: int = LEFT_CHUNKS

    @classmethod
    def of(cls, flags: argparse.Namespace) -> "Chunks | None":
        """The chunked attention described by a model's flags; None for full attention only.

        Raises:
            InputError: for invalid numbers.
        """
        frames, left = (getattr(flags, name, None) for name in CHUNK_FLAGS)
        if frames is None:
            if left is not None:
                raise InputError(f"encoder_left_chunks={left} needs encoder_chunk_frames, the number of frames per chunk")
            return None
        sizes = str(frames).split(",")
        if not all(size.strip().isdecimal() for size in sizes):
            raise InputError(
                f"encoder_chunk_frames={frames} must be whole numbers of at least 0, separated by commas, such as 16,32,0"
            )
        left = LEFT_CHUNKS if left is None else left
        if not isinstance(left, int) or left < 0:
            raise InputError(f"encoder_left_chunks={left} must be a whole number of at least 0")
        chunks = cls(tuple(map(int, sizes)), left)
        return chunks if any(chunks.frames) else None

    def sampled(self) -> int:
        """One of the sizes, from torch's random state, which fairseq seeds by the run's seed and the number of each update."""
        return self.frames[int(torch.randint(len(self.frames), ()))] if len(self.frames) > 1 else self.frames[0]

    def streamed(self, frames: int | None = None) -> int:
        """The size of chunks in a stream: the first that is not the whole utterance, unless another is asked for."""
        chosen = next(filter(None, self.frames)) if frames is None else frames
        if chosen < 1:
            raise InputError(f"chunks of {chosen} encoder frames cannot be streamed; it must be 1 or more")
        return chosen


def chunk_mask(time: int, frames: int, left: int, like: Tensor) -> Tensor:
    """(time, time), of the type of `like`: 1 where frame i may not attend to frame j, else 0."""
    chunk = torch.arange(time, device=like.device) // frames
    behind = chunk[:, None] - chunk
    return ((behind < 0) | (behind > left)).to(like.dtype)


@contextlib.contextmanager
def attending_in_chunks(layers: nn.ModuleList, frames: int, left: int) -> Iterator[None]:
    """While the block runs, fairseq's encoder layers attend in chunks of `frames` frames, or to all frames if it is 0."""
    mask = None

    def add_mask(_layer, arguments):
        nonlocal mask
        x, padding = arguments
        if mask is None:
            mask = chunk_mask(len(x), frames, left, x)
        return x, padding, mask

    with contextlib.ExitStack() as hooks:
        for layer in layers if frames else ():  # before hooks of others, who see what the layer is called with
            hooks.callback(layer.register_forward_pre_hook(add_mask, prepend=True).remove)
        yield


def strides_and_reach(subsampler: Conv1dSubsampler) -> tuple[int, int]:
    """Input frames from one encoder frame to the next, and how far an encoder frame reads ahead.

    Encoder frame i reads input frames up to `stride * i + reach`: with fairseq's kernels 5,5 the stride is 4 and the reach 6.

    Raises:
        InputError: for kernels of even size, which do not give one frame per `stride`.

    >>> strides_and_reach(Conv1dSubsampler(80, 16, 16, [5, 5]))
    (4, 6)
    """
    stride, reach = 1, 0
    for conv in subsampler.conv_layers:
        (size,), (step,), (padding,) = conv.kernel_size, conv.stride, conv.padding
        if size != 2 * padding + 1:
            raise InputError(f"conv_kernel_sizes contains {size}; for an encoder with chunks, all sizes must be odd")
        reach += padding * stride
        stride *= step
    return stride, reach
