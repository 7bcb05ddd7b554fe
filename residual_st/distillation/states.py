"""Which hidden states of a student are compared with which of its teacher's."""

from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder
from torch import nn

from residual_st.errors import InputError
from residual_st.stacks import LayerStack, fairseq_encoder


def find_encoder(model: nn.Module) -> S2TTransformerEncoder:
    """The encoder of a speech-to-text model, which may be wrapped for distributed training. Raises InputError without one."""
    encoder = next((module for module in model.modules() if isinstance(module, S2TTransformerEncoder)), None)
    if encoder is None:
        raise InputError("--distill-encoder-weight needs an s2t_transformer of any size, dense or residual")
    return encoder


def encoder_stack(model: nn.Module) -> LayerStack:
    """The layers of `find_encoder`'s encoder."""
    return fairseq_encoder.of_layers(find_encoder(model).transformer_layers)


def layer_map(student_layers: int, teacher_layers: int, groups: tuple[int, ...] | None = None) -> list[tuple[int, int]]:
    """Pairs (layer of the student, layer of the teacher), both from 0, of equal depth.

    Layer i of L, from 1, stands at depth i / L and is compared with the teacher's layer nearest to it; the last with the last.
    Of layers that share their matrices only a group's last is compared.

    Args:
        groups: the student's layer -> group; None for a dense student, each of whose layers is compared.
    """
    groups = groups or tuple(range(student_layers))
    last = {group: layer for layer, group in enumerate(groups)}
    return [(layer, max(1, round((layer + 1) * teacher_layers / student_layers)) - 1) for layer in sorted(last.values())]
