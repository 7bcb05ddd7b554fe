"""Description of a kind of fairseq models, filled in by the other files of this folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fairseq.models import FairseqEncoder
from fairseq.models.speech_to_text.s2t_transformer import Conv1dSubsampler
from torch import nn

from residual_st.fairseq.chunks import Chunks
from residual_st.sharing import ResidualLinear, SharedWeights, matrix_kind
from residual_st.stacks import KnownLayers, LayerStack, heaviest_stack, stacks_in


@dataclass(frozen=True)
class EncoderParts:
    """The parts of an encoder of frames in the order of computation; `residual_st.export` converts them to a graph.

    Attributes:
        subsampler: reduces the number of frames and projects them to the layers' width; of another class by fairseq's
            `--conv-version`, which cannot be exported.
        scale: factor for its output.
        has_positions: whether fairseq's sinusoidal positions are added.
        projection: projection of the sum; None if there is none.
        layers: fairseq's Transformer or Conformer layers.
        norm: norm after the layers; None if there is none.
        ctc: projection of states to word scores; None if there is none.
        chunks: chunked attention; None for full attention.
    """

    subsampler: Conv1dSubsampler
    scale: float
    has_positions: bool
    projection: nn.Linear | None
    layers: nn.ModuleList
    norm: nn.LayerNorm | None
    ctc: nn.Linear | None
    chunks: Chunks | None = None


def unknown_parts(encoder: FairseqEncoder) -> None:
    """No parts, for encoders that cannot be exported."""


@dataclass(frozen=True)
class Part(KnownLayers):
    """The encoder or the decoder of a kind of model.

    Attributes:
        path: dotted name of the list of layers in the model.
        output_projections: matrices whose output is added to a layer's input, by the last part of their names.
        faster: fairseq's class of layer -> a subclass with the same parameters and outputs that is faster.
        parts: function (encoder) -> EncoderParts; None for an encoder that may compute something else, such as a user dir's
            subclass.
    """

    path: str
    output_projections: frozenset[str]
    faster: Mapping[type, type] = field(default_factory=dict)
    parts: Callable[[FairseqEncoder], EncoderParts | None] = unknown_parts

    @property
    def root(self) -> str:
        """Name of the whole encoder or decoder in the model."""
        return self.path.partition(".")[0]

    def is_output_projection(self, matrix: str) -> bool:
        return matrix_kind(matrix) in self.output_projections

    def find(self, model: nn.Module, name: str | None = None) -> tuple[str, LayerStack] | None:
        """The dotted name of the layers in a model, and their stack; None if the model has no such part.

        Args:
            name: dotted name of the layers, if not the kind's default.

        Raises:
            InputError: if there are no layers with that name.
        """
        path = self._path(model) if name is None else heaviest_stack(model, name)[0]
        layers = None if path is None else model.get_submodule(path)
        if path is None or not isinstance(layers, nn.ModuleList):
            return None
        return path, self.describe(layers, model.get_submodule(path.rpartition(".")[0]))

    def _path(self, model: nn.Module) -> str | None:
        if not isinstance(getattr(model, self.root, None), nn.Module):
            return None
        return shared_path(model, self.root) or self._own_path(model)

    def _own_path(self, model: nn.Module) -> str | None:
        try:
            layers = model.get_submodule(self.path)
        except AttributeError:
            return None
        return self.path if isinstance(layers, nn.ModuleList) and len(layers) else None


class AnyPart(Part):
    """A part of an unknown model: the stack with most weights below `path`."""

    def _own_path(self, model: nn.Module) -> str | None:
        if not stacks_in(model.get_submodule(self.path)):
            return None
        name, _ = heaviest_stack(model.get_submodule(self.path))
        return f"{self.path}.{name}"


@dataclass(frozen=True)
class Kind:
    """A kind of fairseq model.

    Attributes:
        name: name in docs/kinds.md.
        models: names under which fairseq registers its models.
        encoder, decoder: the parts; None for a kind without one.
        target_words, source_words: names of the weights with one row per word.
        clusters: name of the weights with one row per HuBERT cluster.
        of_samples: whether its input is samples, instead of frames or words.
        shared_model: the registered model that is built directly with shared layers from this kind's flags, without dense layers;
            None if a dense model is built first and then shared.
    """

    name: str
    models: tuple[str, ...]
    encoder: Part | None
    decoder: Part | None = None
    target_words: str = "decoder.embed_tokens.weight"
    source_words: str | None = None
    clusters: str | None = None
    of_samples: bool = False
    shared_model: str | None = None

    def part(self, name: str) -> Part | None:
        return self.encoder if name == "encoder" else self.decoder


def shared_path(model: nn.Module, root: str) -> str | None:
    """The dotted name of the shared layers below the module `root`; None if there are none.

    They need not be the kind's default layers: `--encoder-stack` may have selected others.
    """
    for name, owner in model.get_submodule(root).named_modules(prefix=root):
        if owns_shared_weights(owner):
            for child, layers in owner.named_children():
                if isinstance(layers, nn.ModuleList) and any(isinstance(module, ResidualLinear) for module in layers.modules()):
                    return f"{name}.{child}"
    return None


def owns_shared_weights(module: nn.Module) -> bool:
    weights = getattr(module, "shared_weights", None)
    return isinstance(weights, SharedWeights) and len(weights) > 0
