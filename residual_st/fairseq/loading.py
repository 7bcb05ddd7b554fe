"""Loading checkpoints of one form into models of another: dense into shared, shared into dense or into another K.

A state dict describes its own form: which layers share (`layer_groups`), and at which ranks (the shapes of `up` and `down`).
"""

import logging

import torch
from fairseq.models import BaseFairseqModel
from fairseq.trainer import Trainer
from torch import Tensor, nn

from residual_st.compression import CompressionConfig, compress
from residual_st.errors import InputError
from residual_st.fairseq.kinds import stack_of, stacks_of
from residual_st.sharing import SharedForm, deep_copy
from residual_st.sharing.product import compose
from residual_st.sharing.shareable import saved_name
from residual_st.stacks import LayerStack
from residual_st.wrapping import wrap

logger = logging.getLogger("fairseq.sharing")  # a child of fairseq's logger, so that it logs where and when fairseq does

_GROUPS = "shared_weights.layer_groups"
_TERMS = ("up", "down", "diagonal")


def load_any_form() -> None:
    """Patch fairseq's models to load checkpoints of every form. Idempotent.

    Training can be resumed only in the checkpoint's own form, to which the optimizer's state belongs.
    """
    resuming: list[str] = []

    @wrap(BaseFairseqModel, "load_state_dict")
    def load_state_dict(stock, self, state_dict, *arguments, **keywords):
        difference = form_difference(state_dict, self.state_dict())
        if difference and resuming:
            raise InputError(f"{resuming[-1]} cannot be resumed with these flags: {difference}; --finetune-from-model converts it")
        return stock(self, converted(state_dict, self) if difference else state_dict, *arguments, **keywords)

    @wrap(Trainer, "load_checkpoint")
    def load_checkpoint(stock, self, filename, reset_optimizer=False, *arguments, **keywords):
        resuming.extend([] if reset_optimizer else [filename])
        try:
            return stock(self, filename, reset_optimizer, *arguments, **keywords)
        except Exception as error:
            if isinstance(
                error.__context__, InputError
            ):  # which fairseq would replace by a message that architectures do not match
                raise error.__context__ from None
            raise
        finally:
            resuming.clear()


def is_shared(state: dict[str, Tensor]) -> bool:
    return any(key.endswith(_GROUPS) for key in state)


def form_difference(loaded: dict[str, Tensor], expected: dict[str, Tensor]) -> str | None:
    """Description of the difference between the forms of two state dicts of one model; None if there is none."""
    forms = [_forms(state) for state in (loaded, expected)]
    if forms[0] == forms[1]:
        return None
    shared = [{owner: groups for owner, (groups, _) in form.items()} for form in forms]
    if shared[0] == shared[1]:
        return "its residual ranks or diagonals differ from this model's"
    return f"it {_described(shared[0])}, this model {_described(shared[1])}"


def _forms(state: dict[str, Tensor]) -> dict[str, tuple[tuple[int, ...], dict]]:
    """Owner of shared weights -> groups of its layers, and shapes of the terms."""
    forms = {}
    for key, groups in state.items():
        if key.endswith(_GROUPS):
            owner = key.removesuffix(_GROUPS)
            terms = {
                name: tuple(value.shape)
                for name, value in state.items()
                if name.startswith(owner) and name.rpartition(".")[2] in _TERMS
            }
            forms[owner] = tuple(groups.round().int().tolist()), terms
    return forms


def _described(shared: dict[str, tuple[int, ...]]) -> str:
    return " and ".join(f"shares {owner}* in groups {','.join(map(str, groups))}" for owner, groups in shared.items()) or "is dense"


def composed(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the composed weights in place of the terms of every matrix.

    Args:
        state: a state dict of any form.
        expected: the dense model's state dict, for the names of its matrices.
    """
    dense = {key: value for key, value in state.items() if "shared_weights." not in key and key.rpartition(".")[2] not in _TERMS}
    for owner, (groups, _) in _forms(state).items():
        for key, like in expected.items():
            matrix, _, kind = key.rpartition(".")
            if kind != "weight" or key in dense or not key.startswith(owner):
                continue
            layer, name = _layer_and_name(matrix.removeprefix(owner))
            shared = None if layer is None else state.get(f"{owner}shared_weights.{groups[layer]}.{saved_name(name)}")
            up, down, diagonal = (state.get(f"{matrix}.{term}") for term in _TERMS)
            if shared is None and up is None:
                continue  # missing weights are reported when loading
            dense[key] = compose(shared, up, down, diagonal).reshape(like.shape)
    return dense


def _layer_and_name(path: str) -> tuple[int | None, str]:
    """The index of a layer and the name of a matrix in it, from `layers.3.self_attn.q_proj`."""
    parts = path.split(".")
    for place, part in enumerate(parts):
        if part.isdecimal():
            return int(part), ".".join(parts[place + 1 :])
    return None, path


def converted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert a state dict of any form, dense or shared, to the form of a model.

    Shared weights become dense without loss. Dense weights are compressed like `residual-st compress` without calibration.
    """
    dense = deep_copy(model)
    shared = {part: stack for part, stack in stacks_of(dense).items() if stack.is_shared}
    forms = {part: stack.form for part, stack in shared.items()}
    expand(dense)
    state = composed(state, dense.state_dict())
    if not forms:
        logger.info("the checkpoint has shared layers and this model is dense: all weights were composed")
        return state
    nn.Module.load_state_dict(dense, state)
    for part, form in forms.items():
        compress_part(dense, part, form)
    return dense.state_dict()


def expand(model: nn.Module) -> None:
    """Replace every layer's shared matrices by plain ones with the composed weights, in place."""
    for stack in stacks_of(model).values():
        if stack.is_shared:
            stack.unshare()


def compress_part(model: nn.Module, part: str, form: SharedForm, stack: LayerStack | None = None) -> None:
    """Compress trained layers to this form in place, like `residual-st compress` without calibration."""
    with torch.random.fork_rng(devices=[]):  # the model's later random draws must not depend on the source of its weights
        config = CompressionConfig(pattern=str(form.plan), rank=form.ranks, diagonal=form.diagonal)
        result = compress(model, config, stack=stack or stack_of(model, part))
    errors = [error for row in result.errors for error in row.values()]
    logger.info(
        f"the trained {part} was compressed: groups {form.plan}, residual rank {form.ranks}, matrix weights "
        f"{result.parameters_before:,} -> {result.parameters_after:,}, relative errors {min(errors):.3f} to {max(errors):.3f}"
    )
