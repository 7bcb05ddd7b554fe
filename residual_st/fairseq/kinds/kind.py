"""What must be known of a kind of fairseq model: the form of the files beside this one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from residual_st.fairseq.chunks import Chunks
from residual_st.sharing import ResidualLinear, SharedWeights, matrix_kind
from residual_st.stacks import KnownLayers, LayerStack, heaviest_stack, stacks_in


@dataclass(frozen=True)
class EncoderParts:
    """What an encoder of frames computes, in this order; `residual_st.export` makes a graph of it.

    Attributes:
        subsampler: makes fewer frames, each of the layers' width.
        scale: that these are multiplied by.
        has_positions: whether fairseq's sinusoidal positions are added.
        projection: of the sum; None for none.
        layers: Transformer or Conformer layers of fairseq's.
        norm: behind them; None for none.
        ctc: projection of states to the scores of words; None for none.
        chunks: how its layers attend, where that is in chunks; None for full attention.
    """

    subsampler: nn.Module
    scale: float
    has_positions: bool
    projection: nn.Linear | None
    layers: nn.ModuleList
    norm: nn.LayerNorm | None
    ctc: nn.Linear | None
    chunks: Chunks | None = None


def unknown_parts(encoder: nn.Module) -> None:
    """For encoders that cannot be exported."""


@dataclass(frozen=True)
class Part(KnownLayers):
    """The encoder or the decoder of a kind of model.

    Attributes:
        path: the list of its layers, by its dotted name in the model.
        branch_ends: the matrices whose output is added to a layer's input, by the last part of their names.
        faster: fairseq's class of layer -> a subclass with the same parameters that computes the same in less time.
        parts: of a whole encoder; None for one that may compute something else, as a subclass in a user dir.
    """

    path: str
    branch_ends: frozenset[str]
    faster: Mapping[type, type] = field(default_factory=dict)
    parts: Callable[[nn.Module], EncoderParts | None] = unknown_parts

    @property
    def root(self) -> str:
        """The name of the whole encoder or decoder in the model."""
        return self.path.partition(".")[0]

    def ends_branch(self, matrix: str) -> bool:
        return matrix_kind(matrix) in self.branch_ends

    def find(self, model: nn.Module, name: str | None = None) -> tuple[str, LayerStack] | None:
        """The dotted name of the layers in a model, and their stack; None where the model has no such part.

        Args:
            name: other layers than the kind's own.

        Raises:
            InputError: if there are no layers of that name.
        """
        path = self._path(model) if name is None else heaviest_stack(model, name)[0]
        if path is None:
            return None
        return path, self.describe(model.get_submodule(path), model.get_submodule(path.rpartition(".")[0]))

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
    """Of a model that no file knows: its heaviest stack of alike layers, below `path`."""

    def _own_path(self, model: nn.Module) -> str | None:
        if not stacks_in(model.get_submodule(self.path)):
            return None
        name, _ = heaviest_stack(model.get_submodule(self.path))
        return f"{self.path}.{name}"


@dataclass(frozen=True)
class Kind:
    """A kind of fairseq model.

    Attributes:
        name: as docs/kinds.md has it.
        models: the names under which fairseq registers its models.
        encoder, decoder: None for a kind without one.
        target_words, source_words: the weights that have a row for each word.
        clusters: those that have one for each of HuBERT's clusters of sounds.
        of_samples: whether it takes samples, and not frames or words.
        shared_model: the registered model that builds itself shared from the flags of this kind, never with dense layers; None
            where a dense model is built first, and shared then.
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
    """The dotted name of the layers below a module of this name that share their matrices; None where none do.

    They need not be those of the kind: `--encoder-stack` may have chosen others.
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
