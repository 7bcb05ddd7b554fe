"""Building models of every architecture with shared layers, according to their flags."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fairseq.models
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_REGISTRY, BaseFairseqModel
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.fairseq.chunks import Chunks
from residual_st.fairseq.flags import INFERENCE_MODES, PARTS, completed, requested, shares_or_adds
from residual_st.fairseq.kinds import kind_of, part_of, stack_of, stacks_of
from residual_st.fairseq.layers.shared_layers import share_new_layers, take_inference_form_, use_faster_forward
from residual_st.fairseq.loading import composed, compress_part, form_difference, is_shared
from residual_st.sharing import form_of, matrices
from residual_st.wrapping import wrap

logger = logging.getLogger("fairseq.sharing")  # a child of fairseq's logger, so that it logs where and when fairseq does

PRETRAINED_FLAGS = ("load_pretrained_encoder_from", "load_pretrained_decoder_from")


def build_shared_models() -> None:
    """Patch fairseq to build shared models and to prepare them for inference by their flags. Idempotent."""

    @wrap(fairseq.models, "build_model")
    def build_model(stock, cfg, task, from_checkpoint=False):
        arch: str = getattr(cfg, "_name", None) or getattr(cfg, "arch", None) or ""
        model_class = ARCH_MODEL_REGISTRY.get(arch) or MODEL_REGISTRY.get(arch)
        if model_class is None or hasattr(model_class, "sharing_defaults"):  # our models, which build themselves
            return stock(cfg, task, from_checkpoint)
        forms = {part: requested(cfg, part) for part in PARTS}
        forms = {part: form for part, form in forms.items() if shares_or_adds(form)}
        chunked = Chunks.of(cfg) is not None
        if not forms and not chunked:
            with recorded_loads():  # composes shared weights
                return stock(cfg, task, from_checkpoint)
        refuse_unsupported(cfg, arch)
        with open_dict(cfg) if OmegaConf.is_config(cfg) else contextlib.nullcontext():
            kind = kind_of(model_class)
            if kind.shared_model and model_class is MODEL_REGISTRY[kind.name] and not getattr(cfg, "encoder_stack", None):
                return _built_by(MODEL_REGISTRY[kind.shared_model], cfg, task)
            if chunked:
                raise InputError(
                    f"encoder_chunk_frames does not work with --arch {arch}; it must be s2t_transformer or s2t_residual_transformer"
                )
            return _built_and_shared(stock, cfg, task, from_checkpoint, forms)

    @wrap(BaseFairseqModel, "prepare_for_inference_")
    def prepare_for_inference_(stock, self, cfg):
        stock(self, cfg)
        for stack in stacks_of(self).values():
            if stack.is_shared:
                take_inference_form_(stack.owner, stack.layers)


def _built_by(model_class: type[BaseFairseqModel], cfg, task) -> nn.Module:
    """One of our models with the flags of the stock one."""
    ARCH_CONFIG_REGISTRY[cfg.arch](cfg)
    for part in PARTS:
        for flag, value in completed(cfg, part).items():
            setattr(cfg, flag, value)
    return model_class.build_model(cfg, task)


def _built_and_shared(stock, cfg, task, from_checkpoint: bool, forms: dict[str, dict]) -> nn.Module:
    """A stock model whose parts have these forms."""
    for flag in PRETRAINED_FLAGS:
        path = getattr(cfg, flag, None)
        if path and not Path(path).exists():  # some models would warn and train from scratch
            raise InputError(f"--{flag.replace('_', '-')} {path} does not exist; give a checkpoint of fairseq-train")
    with recorded_loads() as loaded:
        model = stock(cfg, task, from_checkpoint)
    if from_checkpoint:
        loaded = Loads()  # loads during building are ignored: the checkpoint's weights are loaded afterwards
    for part, form in forms.items():
        share(model, part, form, loaded, getattr(cfg, "encoder_stack", None) if part == "encoder" else None)
        owner: Any = stack_of(model, part).owner
        owner.inference_mode = getattr(cfg, f"{part}_inference_mode", None) or INFERENCE_MODES[0]
    for flag in PRETRAINED_FLAGS:  # this model's own checkpoints contain the weights and must not depend on another file
        if getattr(cfg, flag, None):
            setattr(cfg, flag, None)
    return model


def refuse_unsupported(flags, arch: str) -> None:
    """Raise InputError for settings that are incompatible with sharing or would be silently ignored."""
    for part in PARTS:
        mode = getattr(flags, f"{part}_inference_mode", None)
        if mode not in (None, *INFERENCE_MODES):  # argparse does not check --model-overrides
            raise InputError(f"{part}_inference_mode {mode!r} is not known; it must be one of {', '.join(INFERENCE_MODES)}")
    if getattr(flags, "quant_noise_pq", None):
        raise InputError(
            f"quant_noise_pq={flags.quant_noise_pq} does not work with shared layers ({arch}), because quantisation noise writes "
            "into each layer's own weight; it must be 0"
        )
    if getattr(flags, "ddp_backend", None) in _UNTESTED_BACKENDS:
        raise InputError(
            f"ddp_backend={flags.ddp_backend} does not work with shared layers ({arch}): it has not been tested with shared "
            "weights; use pytorch_ddp or legacy_ddp"
        )


_UNTESTED_BACKENDS = ("fully_sharded", "slowmo")  # both need fairscale and GPUs, which were not available


class Loads:
    """Records of loads into modules, with the original state dict if its shared layers were composed."""

    def __init__(self):
        self._loaded: list[tuple[nn.Module, dict[str, Tensor] | None]] = []

    def add(self, module: nn.Module, shared: dict[str, Tensor] | None) -> None:
        self._loaded.append((module, shared))

    def reached(self, module: nn.Module) -> bool:
        return any(module in set(loaded.modules()) for loaded, _ in self._loaded)

    def shared_state(self, owner: nn.Module | None) -> tuple[nn.Module, dict[str, Tensor]] | None:
        """The module containing `owner` into which a state dict with shared layers was loaded, and that state dict."""
        return next(((module, state) for module, state in self._loaded if state and owner in set(module.modules())), None)


@contextlib.contextmanager
def recorded_loads() -> Iterator[Loads]:
    """Record loads into modules while the block runs; state dicts with shared layers are composed for dense modules.

    This is the only way to know whether layers are trained: every model and every user dir has its own way to load pretrained
    weights.
    """
    patched: Any = nn.Module
    loads, stock = Loads(), patched.load_state_dict

    @functools.wraps(stock)
    def load_state_dict(self, state_dict, *arguments, **keywords):
        shared = dict(state_dict) if is_shared(state_dict) and not is_shared(self.state_dict()) else None
        result = stock(self, composed(shared, self.state_dict()) if shared else state_dict, *arguments, **keywords)
        loads.add(self, shared)
        return result

    patched.load_state_dict = load_state_dict
    try:
        yield loads
    finally:
        patched.load_state_dict = stock


def share(model: nn.Module, part: str, form: dict, loaded: Loads, name: str | None = None) -> None:
    """Share the layers of a model's encoder or decoder, in place.

    Layers with loaded weights are compressed; others are initialised by `share_new_layers`.

    Args:
        form: arguments of `form_of`.
        name: dotted name of the layers, if they are not the default ones of the model's kind.

    Raises:
        InputError: if there are no such layers, they already share, or the form does not fit them.
    """
    description = part_of(model, part)
    path_and_stack = description.find(model, name)
    if path_and_stack is None:
        raise InputError(
            f"--{part}-group-size and the other sharing flags need a {part} with two or more layers of one class that contain "
            f"matrices; {type(model).__name__} has none"
        )
    path, stack = path_and_stack
    if stack.is_shared:
        raise InputError(
            f"the loaded layers {path} already share their matrices; remove --{part}-group-size and the other sharing flags"
        )
    shared_form = form_of(stack.layers, **form)
    if shared_form.is_dense:
        return
    if loaded.reached(stack.layers[0]):
        state = loaded.shared_state(stack.owner)
        compress_part(model, part, shared_form, stack)
        if state and not form_difference(state[1], state[0].state_dict()):
            state[0].load_state_dict(state[1])  # has exactly this form
        source = "compressed from trained weights"
    else:
        stack.prepare(stack.layers)
        stack.register(share_new_layers(stack.layers, shared_form, description.is_output_projection))
        zeros = [matrix for matrix, _ in matrices(stack.layers[0]) if description.is_output_projection(matrix)]
        source = f"new, with {', '.join(zeros) or 'no matrix'} initialised to 0"
    use_faster_forward(stack.layers, description.faster)
    logger.info(f"layers {path} share: groups {shared_form.plan}, residual rank {shared_form.ranks}; weights {source}")
