"""The two kinds of teacher: a model that runs together with the student, and cached outputs of a model."""

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
    """A trained model in evaluation mode. Not a module, so that the student's checkpoints and optimizer do not include it."""

    def __init__(self, model: BaseFairseqModel, path: str | Path):
        expand(model)  # same outputs, but each weight is composed only once
        self._model = model.eval().requires_grad_(False)
        self._path = path
        self.vocabulary_size = model.decoder.embed_tokens.num_embeddings

    @torch.no_grad()
    def __call__(self, sample: dict, layers: list[int]) -> tuple[None, Tensor, dict[int, Tensor]]:
        """None for word indices, log-probabilities (batch, length, vocabulary), and layer -> state (positions, batch, width)."""
        source = next(value for value in sample["net_input"].values() if isinstance(value, Tensor))
        self._model.to(source.device, source.dtype if source.is_floating_point() else None)
        with recorded_calls(encoder_stack(self._model), layers) as calls:
            logits, _ = self._model(**sample["net_input"])
        return None, logits.float().log_softmax(-1), {layer: call.output for layer, call in calls.items()}

    def map_layers(self, student: nn.Module) -> list[tuple[int, int]]:
        """`layer_map` for a student. Raises InputError if its states have a different width."""
        stack, teacher_stack = encoder_stack(student), encoder_stack(self._model)
        widths = [_width(model) for model in (student, self._model)]
        if widths[0] != widths[1]:
            raise InputError(
                f"--distill-encoder-weight needs states of equal width, but the student has {widths[0]} and {self._path} "
                f"{widths[1]}; set it to 0 to distil words only"
            )
        groups = stack.shared_weights.plan.groups if stack.is_shared else None
        return layer_map(len(stack.layers), len(teacher_stack.layers), groups)


def encoder_stack(model: nn.Module) -> LayerStack:
    """The encoder's layers of a model, possibly wrapped for distributed training. Raises InputError if there are none."""
    return stack_of(_unwrapped(model))


def _unwrapped(model: nn.Module) -> BaseFairseqModel:
    return next(module for module in model.modules() if isinstance(module, BaseFairseqModel))


def _width(model: nn.Module) -> int:
    """Width of the states between layers: the output size of an output projection."""
    model = _unwrapped(model)
    part, layer = part_of(model, "encoder"), stack_of(model).layers[0]
    return next(shape_of(matrix)[0] for name, matrix in matrices(layer) if part.is_output_projection(name))


class CachedTeacher:
    """A teacher's k most probable words at each position of the training set, from disk, computed without SpecAugment."""

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
            f"--distill-encoder-weight needs the teacher's checkpoint in --distill-from, but {self._path} contains only its words"
        )


def open_teacher(path: str | Path, vocabulary_size: int) -> LiveTeacher | CachedTeacher:
    """A teacher from a checkpoint, or from a folder written by `residual-st cache-teacher`.

    Raises:
        InputError: if there is neither, or the size of its dictionary is not `vocabulary_size`.
    """
    teacher = CachedTeacher(path) if Path(path).is_dir() else LiveTeacher(load_model(path)[1], path)
    if teacher.vocabulary_size != vocabulary_size:
        raise InputError(
            f"the dictionary of {path} has {teacher.vocabulary_size} words, but the student's has {vocabulary_size}; "
            "the teacher must be trained with the student's dictionary"
        )
    return teacher
