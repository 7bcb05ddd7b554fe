"""The two kinds of teacher: a model that runs beside the student, and what one said once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from torch import Tensor, nn

from residual_st.distillation.cache import TeacherCache
from residual_st.distillation.states import find_encoder, layer_map, recorded_states
from residual_st.errors import InputError
from residual_st.models.conversion import expand
from residual_st.models.s2t_residual_transformer import S2TResidualTransformerModel
from residual_st.models.standalone import load_model


@dataclass(frozen=True)
class Said:
    """What a teacher says of a batch.

    Attributes:
        log_probs: of the next word: (batch, length, vocabulary), or (batch, length, k) of the likeliest.
        words: indices of the likeliest (batch, length, k); None where `log_probs` has all words.
        states: layer -> output (positions, batch, width).
        ctc: log-probabilities of the encoder's symbols (positions, batch, vocabulary); None where they are not asked for.
    """

    log_probs: Tensor
    words: Tensor | None = None
    states: dict[int, Tensor] = field(default_factory=dict)
    ctc: Tensor | None = None


class LiveTeacher:
    """A trained model in evaluation mode. Not a module, so that no checkpoint or optimizer of the student's takes it in."""

    def __init__(self, model: S2TTransformerModel, path: str | Path):
        if isinstance(model, S2TResidualTransformerModel) and len(model.encoder.shared_weights):
            expand(model)  # the same function, and each weight is composed once
        self._model = model.eval().requires_grad_(False)
        self._path = path
        self.vocabulary_size = model.decoder.embed_tokens.num_embeddings

    @torch.no_grad()
    def __call__(self, sample: dict, layers: list[int], with_ctc: bool) -> Said:
        """What it says of all words, of `layers`, and of CTC's symbols."""
        source = sample["net_input"]["src_tokens"]
        self._model.to(device=source.device, dtype=source.dtype)
        with recorded_states(self._model.encoder.transformer_layers, layers) as states:
            net_output = self._model(**sample["net_input"])
        return Said(
            net_output[0].float().log_softmax(-1),
            states={layer: state for layer, (state, _) in states.items()},
            ctc=self._model.get_ctc_output(net_output, sample)[0] if with_ctc else None,
        )

    def check_ctc(self) -> None:
        """Raises InputError where its encoder has no CTC output."""
        if self._model.encoder.ctc_proj is None:
            raise InputError(f"--distill-ctc-weight needs a teacher trained with --ctc-weight, and {self._path} was not")

    def map_layers(self, student: nn.Module) -> list[tuple[int, int]]:
        """`layer_map` of a student. Raises InputError where its states are of another width."""
        encoder, own = find_encoder(student), self._model.encoder
        widths = [it.layer_norm.normalized_shape[0] for it in (encoder, own)]
        if widths[0] != widths[1]:
            raise InputError(
                f"--distill-encoder-weight compares states, and the student's are {widths[0]} wide, those of {self._path} "
                f"{widths[1]}; leave it at 0 to learn from the teacher's words alone"
            )
        shared = getattr(encoder, "shared_weights", None)
        groups = shared.plan.groups if shared is not None and len(shared) else None
        return layer_map(len(encoder.transformer_layers), len(own.transformer_layers), groups)


class CachedTeacher:
    """What a teacher said of the training set, without SpecAugment: its k likeliest words at each position, from disk."""

    def __init__(self, path: str | Path):
        self._cache = TeacherCache(path)
        self._path = path
        self.vocabulary_size = self._cache.vocabulary_size

    def __call__(self, sample: dict, layers: list[int], with_ctc: bool) -> Said:
        """What it said of its k likeliest words, and of nothing else."""
        words, log_probs = self._cache.lookup(sample["id"], sample["target"])
        return Said(log_probs, words)

    def check_ctc(self) -> None:
        self._refuse("--distill-ctc-weight")

    def map_layers(self, student: nn.Module) -> list[tuple[int, int]]:
        self._refuse("--distill-encoder-weight")

    def _refuse(self, flag: str) -> NoReturn:
        raise InputError(f"{flag} needs the teacher itself, and {self._path} holds its words only; name its checkpoint")


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
