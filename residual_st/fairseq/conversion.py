"""Conversion of dense fairseq checkpoints to residual ones, and back."""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

from fairseq.dataclass.utils import convert_namespace_to_omegaconf, omegaconf_no_object_check
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, BaseFairseqModel
from fairseq.tasks import TASK_REGISTRY
from omegaconf import OmegaConf

from residual_st.compression.pipeline import Compressed
from residual_st.errors import InputError
from residual_st.fairseq.checkpoints import model_flags, weights_alone
from residual_st.fairseq.flags import OUR_FLAGS
from residual_st.fairseq.loading import expand
from residual_st.fairseq.standalone import load_model
from residual_st.fairseq.user_dir import register
from residual_st.sharing import ResidualLinear, SharedForm, deep_copy

_OUR_CRITERION = "label_smoothed_cross_entropy_with_residual"
_OUR_CRITERION_FLAGS = ("residual_penalty", "distill_from", "distill_weight", "distill_temperature", "distill_encoder_weight")


def read_model(path: str | Path, residual: bool | None = None) -> tuple[dict, BaseFairseqModel]:
    """A checkpoint and its model, in evaluation mode.

    Args:
        residual: True to require a model with shared layers or an s2t_residual_transformer; False to require a dense model without
            residuals, of any architecture; None for either.

    Raises:
        InputError: if the file cannot be read, or its model does not meet the requirement.
    """
    state, model = load_model(path)
    arch, shared = model_flags(state, path).arch, any(isinstance(module, ResidualLinear) for module in model.modules())
    if residual and not (shared or hasattr(model, "sharing_defaults")):
        raise InputError(f"{path} is already dense ({arch})")
    if residual is False and shared:
        raise InputError(
            f"{path} is already a residual checkpoint ({arch}); convert it to a dense one first, with residual-st expand"
        )
    return state, model


def residual_checkpoint(state: dict, model: BaseFairseqModel, compressed: dict[str, Compressed]) -> dict:
    """The checkpoint of a compressed model: `state`, the dense one's, with new weights and flags and no optimizer state.

    Args:
        compressed: results of `compress` for "encoder" and optionally "decoder".
    """

    def to_residual(flags: argparse.Namespace) -> None:
        _set_forms(flags, {part: result.form for part, result in compressed.items()})

    return rewritten(state, model, to_residual)


def _set_forms(flags: argparse.Namespace, forms: dict[str, SharedForm]) -> None:
    """Change a dense model's flags to those of a model whose encoder or decoder has these forms."""
    flags.arch = flags.arch.replace("s2t_transformer", "s2t_residual_transformer", 1)
    for part, form in forms.items():
        vars(flags).update(
            {name: value for name, value in form.to_flags(f"{part}_").items() if name in OUR_FLAGS or hasattr(flags, name)}
        )


def dense_checkpoint(state: dict, model: BaseFairseqModel) -> dict:
    """The stock checkpoint of a residual model: composed weights, without the plugin's flags and optimizer state."""
    dense = deep_copy(model)
    expand(dense)

    def to_stock(flags: argparse.Namespace) -> None:
        if flags.arch.startswith("s2t_residual_transformer"):
            stock = flags.arch.replace("s2t_residual_transformer", "s2t_transformer", 1)
            flags.arch = stock if stock in ARCH_CONFIG_REGISTRY else "s2t_transformer"
        for name in (*OUR_FLAGS, *_OUR_CRITERION_FLAGS, "load_pretrained_decoder_from", "user_dir"):
            vars(flags).pop(name, None)
        for name in OUR_FLAGS:  # flags of its pretrained model
            (getattr(flags, "w2v_args", None) or {}).get("model", {}).pop(name, None)
        if getattr(flags, "criterion", None) == _OUR_CRITERION:
            flags.criterion = _stock_criterion(flags.ctc_weight)

    result = rewritten(state, dense, to_stock)
    cfg = result.get("cfg")
    if cfg:
        criterion = cfg.get("criterion")
        if isinstance(criterion, dict) and criterion.get("_name") == _OUR_CRITERION:
            cfg["criterion"] = {key: value for key, value in criterion.items() if key not in _OUR_CRITERION_FLAGS}
            cfg["criterion"]["_name"] = _stock_criterion(criterion["ctc_weight"])
        if isinstance(cfg.get("common"), dict):
            cfg["common"]["user_dir"] = None
    return with_plain_flags(result)


def with_plain_flags(state: dict) -> dict:
    """The checkpoint with its flags as dicts, which stock fairseq can load with every torch.

    fairseq writes a Namespace, which torch refuses by default since 2.6. fairseq reads both, except that flags of fairseq 0.10
    (`args` only) must be a Namespace; they are converted to a `cfg`, as fairseq does when reading them.
    """
    register()
    args, cfg = state.get("args"), state.get("cfg")
    if args is not None and getattr(args, "task", None) in TASK_REGISTRY and getattr(args, "arch", None) in ARCH_MODEL_REGISTRY:
        with omegaconf_no_object_check():
            cfg = OmegaConf.to_container(convert_namespace_to_omegaconf(args), resolve=True, enum_to_str=True)
        args = None
    plain = {key: vars(part) if isinstance(part, argparse.Namespace) else part for key, part in cfg.items()} if cfg else cfg
    kept = {key: value for key, value in state.items() if key != "task_state"}  # contains dictionaries, which torch also refuses
    return {**kept, "args": args, "cfg": plain}


def _stock_criterion(ctc_weight: float) -> str:
    return "label_smoothed_cross_entropy_with_ctc" if ctc_weight else "label_smoothed_cross_entropy"


def rewritten(state: dict, model: BaseFairseqModel, rewrite: Callable[[argparse.Namespace], None]) -> dict:
    """`state` with the weights of `model`, and `rewrite` applied to each of its sets of flags.

    `rewrite` always sees an `arch`, also in the flags of a model defined by a dataclass, which have none.
    """
    result = {key: copy.deepcopy(value) for key, value in weights_alone(state).items() if key != "model"}
    for flags in filter(None, (result.get("args"), *((result.get("cfg") or {}).get(name) for name in ("model", "task")))):
        namespace = argparse.Namespace(**flags) if isinstance(flags, dict) else flags
        named = hasattr(namespace, "arch")
        if named or flags is (result.get("cfg") or {}).get("model"):
            before = namespace.arch = getattr(namespace, "arch", None) or namespace._name
            rewrite(namespace)
            if getattr(namespace, "_name", None) == before:  # the name by which fairseq finds the model's class
                namespace._name = namespace.arch
            if not named:
                del namespace.arch
        if isinstance(flags, dict):
            flags.clear()
            flags.update(vars(namespace))
    precision = next(value.dtype for value in state["model"].values() if value.is_floating_point())
    result["model"] = {
        key: value.to(precision if value.is_floating_point() else value.dtype, copy=True)
        for key, value in model.state_dict().items()
    }
    return result
