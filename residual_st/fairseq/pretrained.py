"""Initialising a component from another checkpoint: `--load-pretrained-encoder-from` and `--load-pretrained-decoder-from`."""

import logging

import torch
from torch import Tensor, nn

from residual_st.compat import reconcile_versions
from residual_st.errors import InputError
from residual_st.fairseq.checkpoints import first_difference, load_checkpoint, model_flags
from residual_st.fairseq.flags import OUR_FLAGS, flag_difference, shaping_flags
from residual_st.fairseq.kinds.s2t_transformer import DECODER, ENCODER, form_of_part, layers_of
from residual_st.fairseq.loading import compress_part, is_shared
from residual_st.sharing import deep_copy, unshare_layers

logger = logging.getLogger(__name__)


def load_pretrained(component: nn.Module, args, flag: str) -> None:
    """Load `component` (an encoder or a decoder) from the checkpoint named in `args.FLAG`, if any.

    A dense component is converted to a residual one with this model's plan, by the code of `residual-st compress` without
    calibration. A CTC projection belongs to a dictionary, so it is only loaded if it has the same size. Afterwards the flag is
    cleared in `args`: this model's own checkpoints contain the weights and must not depend on another file.

    Raises:
        InputError: if the file is missing (the stock model would warn and train from scratch) or cannot be read, or its shapes, its
            model-defining flags or its sharing plan differ.
    """
    path = getattr(args, flag, None)
    if path is None:
        return
    weights, dense = check_pretrained(component, args, flag)
    if dense is not None:
        dense.load_state_dict(weights)
        weights = _compressed(dense, args, flag)
        check_weights(component, weights, flag, path)
    component.load_state_dict(weights)
    logger.info(f"loaded pretrained {part_of(flag)} from: {path}")
    setattr(args, flag, None)


def check_pretrained(component: nn.Module, args, flag: str) -> tuple[dict[str, Tensor], nn.Module | None]:
    """The weights for `component` in the checkpoint `args.FLAG`, and a dense component for them if they must be converted.

    `component` may be on the meta device: nothing is loaded into it.

    Raises:
        InputError: see `load_pretrained`, except for errors in the conversion.
    """
    path, part = getattr(args, flag), part_of(flag)
    state = load_checkpoint(path)
    loaded = {key.removeprefix(f"{part}."): value for key, value in state["model"].items() if key.startswith(f"{part}.")}
    expected = component.state_dict()
    reconcile_versions(loaded, expected)
    for key in ("ctc_proj.weight", "ctc_proj.bias"):
        if key in loaded and (key not in expected or loaded[key].shape != expected[key].shape):
            logger.info(f"{key} is not loaded from {path}: its dictionary differs from this model's")
            del loaded[key]
        if key in expected:
            loaded.setdefault(key, expected[key])
    dense = None
    if loaded and is_shared(expected) and not is_shared(loaded):
        dense = deep_copy(component)
        with torch.random.fork_rng(devices=[]):  # a model's random draws must not depend on the source of its encoder
            unshare_layers(layers_of(dense))
        del dense.shared_weights
        reconcile_versions(loaded, dense.state_dict())
        check_weights(dense, loaded, flag, path)
    else:
        check_weights(component, loaded, flag, path)
    if state.get("cfg") or state.get("args"):
        difference = flag_difference(model_flags(state, path), args, _hidden_flags(args.arch, part))
        if difference:
            raise InputError(f"{_option(flag)} {path} does not fit this model: {difference}")
    return loaded, dense


def check_weights(component: nn.Module, loaded: dict[str, Tensor], flag: str, path: str) -> None:
    """Raise InputError unless a state dict fits the component."""
    difference = first_difference(loaded, component.state_dict(), part_of(flag))
    if difference:
        raise InputError(f"{_option(flag)} {path} does not fit this model: {difference}")


def _hidden_flags(arch: str, part: str) -> list[str]:
    """Flags that define a component, except those of its form, which its shapes and its plan define."""
    of_others = ("decoder_", "share_decoder") if part == "encoder" else ("encoder_", "conv_")
    return [name for name in shaping_flags(arch) if not name.startswith(of_others) and name not in OUR_FLAGS]


def part_of(flag: str) -> str:
    """`encoder` or `decoder`, from one of `PRETRAINED_FLAGS`."""
    return flag.removeprefix("load_pretrained_").removesuffix("_from")


def _option(flag: str) -> str:
    return "--" + flag.replace("_", "-")


def _compressed(dense: nn.Module, args, flag: str) -> dict[str, Tensor]:
    """The state of a dense encoder or decoder in the form of a residual one with these flags."""
    part = part_of(flag)
    described = ENCODER if part == "encoder" else DECODER
    compress_part(dense, part, form_of_part(args, part), described.describe(layers_of(dense), dense))
    return dense.state_dict()
