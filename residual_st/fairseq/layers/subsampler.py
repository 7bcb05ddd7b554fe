"""fairseq's convolutional subsampler as matrix products, for inference."""

from functools import partial

import torch
from fairseq.models.speech_to_text.s2t_transformer import Conv1dSubsampler
from torch import Tensor, nn
from torch.nn.functional import glu

from residual_st.sharing import linear_of, median_seconds, transpose_storage_

_FRAMES = 500  # five seconds


class UnrolledSubsampler(nn.Module):
    """The subsampler's strided convolutions, each as one product of its weights with overlapping windows of its input.

    Frames lie one after the other in memory, so a window is a row that starts `stride` frames after the one before, and nothing has
    to be copied. On some processors torch's convolution takes longer, because it rearranges its weights at each call; on others it
    takes less.
    """

    def __init__(self, subsampler: Conv1dSubsampler):
        super().__init__()
        self.lengths_after = subsampler.get_out_seq_lens_tensor
        self.windows = [(*conv.kernel_size, *conv.stride, *conv.padding) for conv in subsampler.conv_layers]
        self.linears = nn.ModuleList(_linear(conv) for conv in subsampler.conv_layers)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (batch, time, bins) and their number (batch,) -> (shorter time, batch, width) and its lengths (batch,)."""
        x = frames
        for linear, (size, stride, padding) in zip(self.linears, self.windows):
            batch, length, width = x.shape
            rows = -(-(length + 2 * padding) // stride)  # of windows for each utterance; the last may reach into the next one
            padded = x.new_zeros(batch * rows * stride + max(size - stride, 0), width)
            padded[: batch * rows * stride].view(batch, -1, width)[:, padding : padding + length] = x
            windows = padded.as_strided((batch * rows, size * width), (stride * width, 1))
            wanted = (length + 2 * padding - size) // stride + 1
            x = glu(linear(windows)).view(batch, rows, -1)[:, :wanted]
        return x.transpose(0, 1).contiguous(), self.lengths_after(lengths)


@torch.no_grad()
def fastest_subsampler(subsampler: nn.Module) -> nn.Module:
    """The subsampler, or on a CPU its unrolled form where that takes less time for five seconds of speech on this machine.

    Which of them does differs between processors by a factor of 1.7 either way.
    """
    if not isinstance(subsampler, Conv1dSubsampler) or next(subsampler.parameters()).device.type != "cpu":
        return subsampler
    weight = subsampler.conv_layers[0].weight
    frames, lengths = weight.new_zeros(1, _FRAMES, weight.size(1)), torch.tensor([_FRAMES])
    unrolled = UnrolledSubsampler(subsampler)
    transpose_storage_(unrolled)
    times = [median_seconds([partial(form, frames, lengths)], repeats=5) for form in (subsampler, unrolled)]
    return unrolled if times[1] < times[0] else subsampler


def _linear(conv: nn.Conv1d) -> nn.Linear:
    """(out, in, size) -> (out, size * in)"""
    return linear_of(conv.weight.transpose(1, 2).flatten(1), conv.bias)
