"""Stock (dense) and residual models of one shape that compute the same function, for comparing their speeds."""

import argparse
import copy
from dataclasses import dataclass

import torch
from fairseq.models import BaseFairseqModel

from residual_st.errors import InputError
from residual_st.fairseq.conversion import expand
from residual_st.fairseq.kinds import kind_of
from residual_st.fairseq.standalone import build_model, parse_model_flags

VOCABULARY = 8000
FRAMES_PER_SECOND = 100
BINS = 80
GROUPS = 4  # number of groups in the sweep over layers
_HEAD_WIDTH = 64


@dataclass(frozen=True)
class Shape:
    """A model of `arch` with `model_flags`, except for these fields. The decoder has six layers of the same width."""

    width: int
    layers: int
    group_size: int
    rank: int | str  # a string as in --encoder-residual-rank
    dropout: float = 0.1
    decoder_group_size: int = 1  # above 1, the decoder has residuals of the same rank, and diagonals
    bare: bool = False  # minimal subsampler and position table, so that the encoder is practically its layers
    arch: str = "s2t_transformer_s"
    model_flags: tuple[str, ...] = ()  # further model flags

    def flags(self, system: str) -> argparse.Namespace:
        """The completed flags of a model: "stock", "compact" or "fast"."""
        options: dict[str, int | float | str] = {
            "--encoder-embed-dim": self.width,
            "--encoder-layers": self.layers,
            "--encoder-attention-heads": max(self.width // _HEAD_WIDTH, 1),
            "--decoder-attention-heads": max(self.width // _HEAD_WIDTH, 1),
            "--dropout": self.dropout,
        }
        arch = self.arch
        if system != "stock":
            arch = arch.replace("s2t_transformer", "s2t_residual_transformer")  # its encoder can be built alone
            options |= {
                "--encoder-group-size": self.group_size,
                "--encoder-residual-rank": self.rank,
                "--encoder-inference-mode": system,
            }
            if self.decoder_group_size > 1:
                options |= {"--decoder-group-size": self.decoder_group_size, "--decoder-residual-rank": self.rank}
                options |= {"--decoder-inference-mode": system}
        flags = parse_model_flags(arch, [*self.model_flags, *(str(part) for option in options.items() for part in option)])
        if self.decoder_group_size > 1 and system != "stock":
            flags.decoder_residual_diagonal = True
        flags.tgt_dict_size = VOCABULARY
        if self.bare:
            flags.conv_channels, flags.max_source_positions = 16, 1024
        return flags

    def row(self) -> dict:
        """The shape's columns in a row of results."""
        row = {"width": self.width, "layers": self.layers, "group_size": self.group_size, "rank": self.rank}
        if self.decoder_group_size > 1:
            row["decoder_group_size"] = self.decoder_group_size
        if self.arch != Shape.arch or self.model_flags:
            row |= {"arch": self.arch, "model_flags": " ".join(self.model_flags)}
        return row


def build_residual(shape: Shape) -> BaseFairseqModel:
    """A residual model with random residuals; a new model has none."""
    model = build_model(shape.flags("compact"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".up", ".diagonal")):
                parameter.normal_(std=0.02)
    return model


def build_pair(shape: Shape) -> tuple[BaseFairseqModel, BaseFairseqModel]:
    """A residual model, and the stock model that it expands to.

    Raises:
        InputError: if the architecture's input is not frames of features.
    """
    stock = build_model(shape.flags("stock"))
    kind = kind_of(type(stock))
    if kind.of_samples or kind.source_words:
        raise InputError(f"--arch {shape.arch} must be an architecture whose input is frames of features, such as s2t_conformer")
    residual = build_residual(shape)
    expanded = copy.deepcopy(residual)
    expand(expanded)
    stock.load_state_dict(expanded.state_dict())
    return stock, residual
