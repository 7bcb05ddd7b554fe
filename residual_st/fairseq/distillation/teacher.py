"""The two kinds of teacher: a model that runs beside the student, and stored outputs of one."""

from pathlib import Path

import torch
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.fairseq.conversion import expand
from residual_st.fairseq.distillation.cache import TeacherCache
from residual_st.fairseq.kinds import part_of, stack_of
from residual_st.fairseq.standalone import load_model
from residual_st.sharing import matrices, shape_of
from residual_st.stacks import LayerStack, layer_map, recorded_calls


class LiveTeacher:
    """A trained model in evaluation mode. Not a module, so that no checkpoint or optimizer of the student's takes it in."""

    def __init__(self, model: BaseFairseqModel, path: str | Path):
        expand(model)  # the same function, and each weight is composed once
        self._model = model.eval().requires_grad_(False)
        self._path = path
        self.vocabulary_size = model.decoder.embed_tokens.num_embeddings

    @torch.no_grad()
    def __call__(self, sample: dict, layers: list[int]) -> tuple[None, Tensor, dict[int, Tensor]]:
        """No word indices, log-probabilities (batch, length, vocabulary), and layer -> state (positions, batch, width)."""
        source = next(value for value in sample["net_input"].values() if isinstance(value, Tensor))
        self._model.to(source.device, source.dtype if source.is_floating_point() else None)
        with recorded_calls(encoder_stack(self._model), layers) as calls:
            logits, _ = self._model(**sample["net_input"])
        return None, logits.float().log_softmax(-1), {layer: call.output for layer, call in calls.items()}

    def map_layers(self, student: nn.Module) -> list[tuple[int, int]]:
        """`layer_map` of a student. Raises InputError where its states are of another width."""
        stack, own = encoder_stack(student), encoder_stack(self._model)
        widths = [_width(model) for model in (student, self._model)]
        if widths[0] != widths[1]:
            raise InputError(
                f"--distill-encoder-weight compares states, and the student's are {widths[0]} wide, those of {self._path} "
                f"{widths[1]}; leave it at 0 to learn from the teacher's words alone"
            )
        groups = stack.owner.shared_weights.plan.groups if stack.is_shared else None
        return layer_map(len(stack.layers), len(own.layers), groups)


def encoder_stack(model: nn.Module) -> LayerStack:
    """The encoder's layers of a model, which may be wrapped for distributed training. Raises InputError where there are none."""
    return stack_of(_unwrapped(model))


def _unwrapped(model: nn.Module) -> BaseFairseqModel:
    return next(module for module in model.modules() if isinstance(module, BaseFairseqModel))


def _width(model: nn.Module) -> int:
    """Of the states between layers: what a matrix has out whose output is added to them."""
    model = _unwrapped(model)
    part, layer = part_of(model, "encoder"), stack_of(model).layers[0]
    return next(shape_of(matrix)[0] for name, matrix in matrices(layer) if part.ends_branch(name))


class CachedTeacher:
    """A teacher's k most probable words at each position of the training set, computed without SpecAugment, from disk."""

    def __init__(self, path: str | Path):
        self._cache = TeacherCache(path)
        self._path = path
        self.vocabulary_size = self._cache.vocabulary_size

    def __call__(self, sample: dict, layers: list[int]) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Word indices and log-probabilities (batch, length, k), and no states."""
        words, log_probs = self._cache.lookup(sample["id"], sample["target"])
        return words, log_probs, {}

    def map_layers(self, student: nn.Module) -> list[tuple[int, int]]:
        raise InputError(
            f"--distill-encoder-weight needs the teacher itself, and {self._path} holds its words only; name its checkpoint"
        )


def open_teacher(path: str | Path, vocabulary_size: int) -> LiveTeacher | CachedTeacher:
    """A teacher from a checkpoint, or from a folder that `residual-st cache-teacher` wrote.

    Raises:
        InputError: if there is neither, or its dictionary is of another size than `vocabulary_size`.
    """
    teacher = CachedTeacher(path) if Path(path).is_dir() else LiveTeacher(load_model(path)[1], path)
    if teacher.vocabulary_size != vocabulary_size:
        raise InputError(
            f"{path} has a dictionary of {teacher.vocabulary_size} words and the student one of {vocabulary_size}; "
            "a teacher must have been trained with the student's"
        )
    return teacher
