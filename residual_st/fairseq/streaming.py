"""A streaming encoder with torch, for models trained in chunks; see `residual_st.runtime.streaming` for exported models."""

import copy
import math
from typing import Any

import numpy as np
import torch
from fairseq.data.audio.feature_transforms.global_cmvn import GlobalCMVN
from fairseq.models import FairseqEncoder
from torch import Tensor, nn
from torch.nn.functional import conv1d, glu, pad

from residual_st.audio.filterbank import OnlineFilterbank
from residual_st.errors import InputError
from residual_st.fairseq.chunks import Chunks, strides_and_reach
from residual_st.fairseq.kinds import s2t_transformer
from residual_st.fairseq.layers.encoder_layer import Past, ResidualTransformerEncoderLayer
from residual_st.fairseq.model_input import ModelInput


class StreamingEncoder:
    """Encoder of one recording that arrives in pieces. Each chunk is computed once, and equals a masked pass over the recording.

    Positions count from the start of the recording: call `reset` or `finish` before they exceed those of training.

    Attributes:
        frames: number of encoder frames returned so far.

    Args:
        encoder: encoder of an s2t_transformer with `encoder_chunk_frames`, in evaluation mode.
        source: the model's input.
        chunk_frames: chunk size; None for the first of the model's.

    Raises:
        InputError: if the model attends to whole utterances, or its features are normalised by utterance.
    """

    _pasts: list[Past | None]  # of each layer

    def __init__(self, encoder: FairseqEncoder, source: ModelInput, chunk_frames: int | None = None):
        refuse_whole_utterances(source)
        chunks, parts = chunks_of(encoder), s2t_transformer.ENCODER.parts(encoder)
        if parts is None:
            raise InputError(f"{type(encoder).__name__} cannot stream; it must be the encoder of an s2t_transformer")
        strides_and_reach(parts.subsampler)  # raises for unsupported subsamplers
        self._parts, self._source = parts, source
        self._layers = [_with_past(layer) for layer in self._parts.layers]
        self._size, self._left = chunks.streamed(chunk_frames), chunks.left
        self.reset()

    def reset(self) -> None:
        """Forget the recording: the next samples belong to a new one."""
        self.frames = 0
        self._filterbank = OnlineFilterbank(self._source.sample_rate, self._source.bins)
        convolutions = self._parts.subsampler.conv_layers
        self._tails = [conv.weight.new_zeros(1, conv.in_channels, conv.padding[0]) for conv in convolutions]
        self._waiting = convolutions[0].weight.new_zeros(0, 1, convolutions[-1].out_channels // 2)
        self._pasts = [None] * len(self._layers)

    def feed(self, samples: np.ndarray) -> Tensor:
        """Mono samples (n,) -> the states of the chunks that are now complete (1, time, width)."""
        return self._encode(samples, is_last=False)

    def finish(self) -> Tensor:
        """The states of the rest of the recording, which is then forgotten."""
        states = self._encode(np.zeros(0, np.float32), is_last=True)
        self.reset()
        return states

    @torch.no_grad()
    def _encode(self, samples: np.ndarray, is_last: bool) -> Tensor:
        frames = self._filterbank.feed(samples)
        for transform in self._source.transforms:
            frames = transform(frames)
        features = torch.from_numpy(frames).to(self._waiting)
        self._waiting = torch.cat([self._waiting, self._subsampled(features.T[None], is_last).permute(2, 0, 1)])
        states = [self._waiting.new_zeros(0, *self._waiting.shape[1:])]
        while len(self._waiting) >= (1 if is_last else self._size):
            states.append(self._chunk(self._waiting[: self._size]))
            self._waiting = self._waiting[self._size :]
        return torch.cat(states).transpose(0, 1)

    def _subsampled(self, x: Tensor, is_last: bool) -> Tensor:
        """(1, bins, frames) -> (1, width, outputs determined by these and earlier frames)"""
        for place, conv in enumerate(self._parts.subsampler.conv_layers):
            (size,), (stride,), (padding,) = conv.kernel_size, conv.stride, conv.padding
            x = torch.cat([self._tails[place], x], dim=2)
            x = pad(x, (0, padding)) if is_last else x
            windows = max(0, (x.size(2) - size) // stride + 1)
            self._tails[place] = x[:, :, windows * stride :]
            nothing = x.new_zeros(1, conv.out_channels // 2, 0)  # torch cannot convolve less than a window
            x = glu(conv1d(x, conv.weight, conv.bias, conv.stride), 1) if windows else nothing
        return x

    def _chunk(self, x: Tensor) -> Tensor:
        """Output of the subsampler (time, 1, width) -> states"""
        kept = self._left * self._size
        x = self._parts.scale * x + positions(self.frames, len(x), x)[:, None]
        self.frames += len(x)
        for index, layer in enumerate(self._layers):
            x, past = layer.forward_chunk(x, self._pasts[index])
            keys, values = (each[:, :, max(0, each.size(2) - kept) :] for each in past)
            self._pasts[index] = keys, values
        return x if self._parts.norm is None else self._parts.norm(x)


def _with_past(layer: nn.Module) -> ResidualTransformerEncoderLayer:
    """A layer's modules with a forward pass that takes the keys and values of earlier frames."""
    with_past: Any = copy.copy(layer)
    with_past.__class__ = s2t_transformer.ENCODER.faster.get(type(layer), type(layer))
    return with_past


def chunks_of(encoder: FairseqEncoder) -> Chunks:
    """The chunked attention of an encoder. Raises InputError if it attends to whole utterances."""
    chunks = getattr(encoder, "chunks", None)
    if chunks is None:
        raise InputError("the encoder attends to whole utterances and cannot stream; train it with --encoder-chunk-frames")
    return chunks


def refuse_whole_utterances(source: ModelInput) -> None:
    """Raise InputError for features that depend on the whole utterance."""
    for transform in source.transforms:
        if type(transform) is not GlobalCMVN:
            raise InputError(
                f"the data configuration has {type(transform).__name__}, which needs the whole utterance and cannot stream; "
                "prepare the data with `prepare.py --cmvn global` (or none) and train on that"
            )


def positions(first: int, count: int, like: Tensor) -> Tensor:
    """fairseq's sinusoidal embeddings of positions counted from 0, (count, width), without its table."""
    half = like.size(-1) // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    phases = torch.arange(first + 2, first + 2 + count, dtype=torch.float)[:, None] * rates  # position 1 is padding
    embeddings = torch.cat([phases.sin(), phases.cos()], dim=1)
    return pad(embeddings, (0, like.size(-1) % 2)).to(like)
