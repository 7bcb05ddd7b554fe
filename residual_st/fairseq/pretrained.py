"""Starting a component from another checkpoint: `--load-pretrained-encoder-from` and `--load-pretrained-decoder-from`."""

import logging

import torch
from torch import Tensor, nn

from residual_st.compat import reconcile_versions
from residual_st.errors import InputError
from residual_st.fairseq.checkpoints import first_difference, load_checkpoint, model_flags
from residual_st.fairseq.flags import OUR_FLAGS, flag_difference, shaping_flags
from residual_st.fairseq.kinds.s2t_transformer import KIND, form_of_part, layers_of
from residual_st.fairseq.loading import compress_part, is_shared
from residual_st.sharing import deep_copy, unshare_layers

logger = logging.getLogger(__name__)


def load_pretrained(component: nn.Module, args, flag: str) -> None:
    """Load `component` (an encoder or a decoder) from the checkpoint that `args.FLAG` names, if any.

    A dense component becomes a residual one of this model's plan on the way, by the same code as `residual-st compress`, without
    calibration. A CTC projection is tied to its dictionary, so it is taken over only where it has the same size. Afterwards the
    flag is cleared in `args`: the weights are in this model's own checkpoints from now on, and these must not depend on another
    file.

    Raises:
        InputError: if the file cannot be read, is missing (the stock model would then train from scratch with a warning), is of
            another shape, has other flags that shape a model, or is shared by another plan.
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
    """The weights that the checkpoint in `args.FLAG` has for `component`, and a dense component for them if they must be converted.

    `component` may be on the meta device: nothing is loaded into it.

    Raises:
        InputError: as `load_pretrained` does, except what conversion may find.
    """
    path, part = getattr(args, flag), part_of(flag)
    state = load_checkpoint(path)
    loaded = {key.removeprefix(f"{part}."): value for key, value in state["model"].items() if key.startswith(f"{part}.")}
    expected = component.state_dict()
    reconcile_versions(loaded, expected)
    for key in ("ctc_proj.weight", "ctc_proj.bias"):
        if key in loaded and (key not in expected or loaded[key].shape != expected[key].shape):
            logger.info(f"{key} is not taken from {path}: its dictionary is not this model's")
            del loaded[key]
        if key in expected:
            loaded.setdefault(key, expected[key])
    dense = None
    if loaded and is_shared(expected) and not is_shared(loaded):
        dense = deep_copy(component)
        with torch.random.fork_rng(devices=[]):  # a model's draws must not depend on where its encoder is from
            unshare_layers(layers_of(dense))
        del dense.shared_weights
        reconcile_versions(loaded, dense.state_dict())
        check_weights(dense, loaded, flag, path)
    else:
        check_weights(component, loaded, flag, path)
    if state.get("cfg") or state.get("args"):
        difference = flag_difference(model_flags(state, path), args, _hidden_flags(args.arch, part))
        if difference:
            raise InputError(f"{_option(flag)} {path} is of another model than this one: {difference}")
    return loaded, dense


def check_weights(component: nn.Module, loaded: dict[str, Tensor], flag: str, path: str) -> None:
    """Raise InputError unless a state dict fits the component."""
    difference = first_difference(loaded, component.state_dict(), part_of(flag))
    if difference:
        raise InputError(f"{_option(flag)} {path} is of another model than this one: {difference}")


def _hidden_flags(arch: str, part: str) -> list[str]:
    """Flags that shape a component; those of the shared form are left to its shapes and its plan."""
    of_others = ("decoder_", "share_decoder") if part == "encoder" else ("encoder_", "conv_")
    return [name for name in shaping_flags(arch) if not name.startswith(of_others) and name not in OUR_FLAGS]


def part_of(flag: str) -> str:
    """`encoder` or `decoder`, from one of `PRETRAINED_FLAGS`."""
    return flag.split("_")[2]


def _option(flag: str) -> str:
    return "--" + flag.replace("_", "-")


def _compressed(dense: nn.Module, args, flag: str) -> dict[str, Tensor]:
    """The state of a dense encoder or decoder in the form of a residual one with these flags."""
    part = part_of(flag)
    compress_part(dense, part, form_of_part(args, part), KIND.part(part).describe(layers_of(dense), dense))
    return dense.state_dict()
