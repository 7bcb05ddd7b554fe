"""Models of every architecture, built with layers that share where their flags say so."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import fairseq.models
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_REGISTRY, BaseFairseqModel
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.fairseq.chunks import Chunks
from residual_st.fairseq.flags import INFERENCE_MODES, PARTS, completed, requested, shares_or_adds
from residual_st.fairseq.kinds import kind_of, part_of, stacks_of
from residual_st.fairseq.layers.shared_layers import share_new_layers, take_inference_form_, use_faster_forward
from residual_st.fairseq.loading import composed, compress_part, form_difference, is_shared
from residual_st.sharing import form_of, matrices
from residual_st.wrapping import wrap

logger = logging.getLogger("fairseq.sharing")  # one of fairseq's, so that it speaks where and when fairseq does

PRETRAINED_FLAGS = ("load_pretrained_encoder_from", "load_pretrained_decoder_from")


def build_shared_models() -> None:
    """Have fairseq build shared models, and prepare them for inference as their flags say. A second call changes nothing."""

    @wrap(fairseq.models, "build_model")
    def build_model(stock, cfg, task, from_checkpoint=False):
        arch = getattr(cfg, "_name", None) or getattr(cfg, "arch", None)
        model_class = ARCH_MODEL_REGISTRY.get(arch) or MODEL_REGISTRY.get(arch)
        if model_class is None or hasattr(model_class, "sharing_defaults"):  # ours, which build themselves
            return stock(cfg, task, from_checkpoint)
        forms = {part: requested(cfg, part) for part in PARTS}
        forms = {part: form for part, form in forms.items() if shares_or_adds(form)}
        chunked = Chunks.of(cfg) is not None
        if not forms and not chunked:
            with recorded_loads():  # which composes what is shared
                return stock(cfg, task, from_checkpoint)
        refuse_unsupported(cfg, arch)
        with open_dict(cfg) if OmegaConf.is_config(cfg) else contextlib.nullcontext():
            kind = kind_of(model_class)
            if kind.shared_model and model_class is MODEL_REGISTRY[kind.name] and not getattr(cfg, "encoder_stack", None):
                return _built_by(MODEL_REGISTRY[kind.shared_model], cfg, task)
            if chunked:
                raise InputError(
                    f"encoder_chunk_frames must be left out for --arch {arch}; s2t_transformer and s2t_residual_transformer take it"
                )
            return _built_and_shared(stock, cfg, task, from_checkpoint, forms)

    @wrap(BaseFairseqModel, "prepare_for_inference_")
    def prepare_for_inference_(stock, self, cfg):
        stock(self, cfg)
        for stack in stacks_of(self).values():
            if stack.is_shared:
                take_inference_form_(stack.owner, stack.layers)


def _built_by(model_class: type, cfg, task) -> nn.Module:
    """A model of ours with the flags of the stock one."""
    ARCH_CONFIG_REGISTRY[cfg.arch](cfg)
    for part in PARTS:
        for flag, value in completed(cfg, part).items():
            setattr(cfg, flag, value)
    return model_class.build_model(cfg, task)


def _built_and_shared(stock, cfg, task, from_checkpoint: bool, forms: dict[str, dict]) -> nn.Module:
    """A stock model whose parts have these forms."""
    for flag in PRETRAINED_FLAGS:
        path = getattr(cfg, flag, None)
        if path and not Path(path).exists():  # some models would train from scratch, with a warning
            raise InputError(f"--{flag.replace('_', '-')} {path} does not exist; give a checkpoint that fairseq-train wrote")
    with recorded_loads() as loaded:
        model = stock(cfg, task, from_checkpoint)
    if from_checkpoint:
        loaded = Loads()  # whatever it is built from, the checkpoint's own weights follow
    for part, form in forms.items():
        share(model, part, form, loaded, getattr(cfg, "encoder_stack", None) if part == "encoder" else None)
        owner = part_of(model, part).find(model)[1].owner
        owner.inference_mode = getattr(cfg, f"{part}_inference_mode", None) or INFERENCE_MODES[0]
    for flag in PRETRAINED_FLAGS:  # the weights are in this model's own checkpoints from now on, which must not depend on a file
        if getattr(cfg, flag, None):
            setattr(cfg, flag, None)
    return model


def refuse_unsupported(flags, arch: str) -> None:
    """Raise InputError for settings that do not go together with sharing, or would otherwise be ignored without a word."""
    for part in PARTS:
        mode = getattr(flags, f"{part}_inference_mode", None)
        if mode not in (None, *INFERENCE_MODES):  # argparse does not see those of --model-overrides
            raise InputError(f"{part}_inference_mode {mode!r} is not known; it must be one of {', '.join(INFERENCE_MODES)}")
    if getattr(flags, "quant_noise_pq", None):
        raise InputError(
            f"quant_noise_pq={flags.quant_noise_pq} does not work with shared layers ({arch}): quantisation noise writes into each "
            "layer's own weight, and a shared one has none"
        )
    if getattr(flags, "ddp_backend", None) in _UNTESTED_BACKENDS:
        raise InputError(
            f"ddp_backend={flags.ddp_backend} does not work with shared layers ({arch}): it has not been tested with shared "
            "weights; use pytorch_ddp or legacy_ddp"
        )


_UNTESTED_BACKENDS = ("fully_sharded", "slowmo")  # both need fairscale and GPUs, which were not available


class Loads:
    """What was loaded into modules: those modules, and for some the state dict with shared layers that it was composed from."""

    def __init__(self):
        self._loaded: list[tuple[nn.Module, dict[str, Tensor] | None]] = []

    def add(self, module: nn.Module, shared: dict[str, Tensor] | None) -> None:
        self._loaded.append((module, shared))

    def reached(self, module: nn.Module) -> bool:
        return any(module in set(loaded.modules()) for loaded, _ in self._loaded)

    def shared_state(self, owner: nn.Module) -> tuple[nn.Module, dict[str, Tensor]] | None:
        """The module around an owner into which a state dict with shared layers was loaded, and that state dict."""
        return next(((module, state) for module, state in self._loaded if state and owner in set(module.modules())), None)


@contextlib.contextmanager
def recorded_loads() -> Iterator[Loads]:
    """Record, while the block runs, what is loaded into modules; state dicts with shared layers are composed for dense modules.

    Whether layers are trained can be told in no other way: every model, and every user dir, has a way of its own to begin with
    trained weights.
    """
    loads, stock = Loads(), nn.Module.load_state_dict

    @functools.wraps(stock)
    def load_state_dict(self, state_dict, *arguments, **keywords):
        shared = dict(state_dict) if is_shared(state_dict) and not is_shared(self.state_dict()) else None
        result = stock(self, composed(shared, self.state_dict()) if shared else state_dict, *arguments, **keywords)
        loads.add(self, shared)
        return result

    nn.Module.load_state_dict = load_state_dict
    try:
        yield loads
    finally:
        nn.Module.load_state_dict = stock


def share(model: nn.Module, part: str, form: dict, loaded: Loads, name: str | None = None) -> None:
    """Have the layers of a model's encoder or decoder share, in place.

    Layers into which weights were loaded are compressed; others start as `share_new_layers` says.

    Args:
        form: arguments of `form_of`.
        name: of the layers, where they are not those of the model's kind.

    Raises:
        InputError: if there are no such layers, they share already, or the form does not fit them.
    """
    description = part_of(model, part)
    found = description.find(model, name)
    if found is None:
        raise InputError(
            f"--{part}-group-size and the like need a {part} with two layers or more of one class that hold matrices, which "
            f"{type(model).__name__} does not have"
        )
    path, stack = found
    if stack.is_shared:
        raise InputError(
            f"the layers {path} share their matrices already, as they were loaded; leave out --{part}-group-size and the like"
        )
    shared_form = form_of(stack.layers, **form)
    if shared_form.is_dense:
        return
    if loaded.reached(stack.layers[0]):
        state = loaded.shared_state(stack.owner)
        compress_part(model, part, shared_form, stack)
        if state and not form_difference(state[1], state[0].state_dict()):
            state[0].load_state_dict(state[1])  # of this very form: as it is
        started = "from trained weights"
    else:
        stack.prepare(stack.layers)
        stack.owner.shared_weights = share_new_layers(stack.layers, shared_form, description.ends_branch)
        zeros = [matrix for matrix, _ in matrices(stack.layers[0]) if description.ends_branch(matrix)]
        started = f"new ones, with {', '.join(zeros) or 'no matrix'} at 0"
    use_faster_forward(stack.layers, description.faster)
    logger.info(f"the layers {path} share as {shared_form.plan}, with residual rank {shared_form.ranks}: {started}")
