"""The flags that define a model, mainly the sharing flags, which every registered architecture gets.

Many flags are not visible in the shapes of a model's weights: heads, activation, position of the norms.
"""

import argparse
import dataclasses
from dataclasses import field
from typing import Any, Optional

import fairseq.models
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from hydra.core.config_store import ConfigStore

from residual_st.fairseq.chunks import CHUNK_FLAGS, add_chunk_flags
from residual_st.fairseq.user_dir import register
from residual_st.sharing.form import Defaults, add_flags, complete_flags, flag_names
from residual_st.wrapping import wrap

PARTS = ("encoder", "decoder")
INFERENCE_MODES = ("compact", "fast")
OUR_FLAGS = (*(name for part in PARTS for name in (*flag_names(f"{part}_"), f"{part}_inference_mode")), "encoder_stack")

DENSE = {part: Defaults(1, 0, False, where_shared=(2, True)) for part in PARTS}  # for other projects' archs

# model flags that do not affect the meaning of its weights: flags for training only, names of files, and ways to use the same
# weights
_NOT_SHAPING = {
    *CHUNK_FLAGS,
    "activation_dropout",
    "attention_dropout",
    "dropout",
    "decoder_inference_mode",
    "encoder_freezing_updates",
    "encoder_inference_mode",
    "load_pretrained_decoder_from",
    "load_pretrained_encoder_from",
}


_WITH_FLAGS: set[str] = set()  # names of registered models


def give_flags_to_all() -> None:
    """Add the sharing flags to every registered model and every model registered later. Idempotent."""
    for name in MODEL_REGISTRY:
        _give_flags(name)

    @wrap(fairseq.models, "register_model")
    def register_model(stock, name, *arguments, **keywords):
        def registered(model_class):
            model_class = stock(name, *arguments, **keywords)(model_class)
            _give_flags(name)
            return model_class

        return registered


def _give_flags(name: str) -> None:
    if name in _WITH_FLAGS:
        return
    _WITH_FLAGS.add(name)
    model_class, config = MODEL_REGISTRY[name], MODEL_DATACLASS_REGISTRY.get(name)
    stock = model_class.add_args

    def add_args(parser):
        stock(parser) if config is None else gen_parser_from_dataclass(parser, config(), delete_default=True)
        if "--encoder-group-size" not in parser._option_string_actions:  # may have been added by its base class
            add_sharing_flags(parser, defaults_of(model_class))

    vars(add_args).update(__wrapped__=stock)
    model_class.add_args = staticmethod(add_args)
    if config is not None:
        _register_config(name, model_class, config)


def _register_config(name: str, model_class: Any, config: Any) -> None:
    """Add fields for the flags' values to a model that is defined by a dataclass."""
    fields = [(flag, _TYPES.get(flag.partition("_")[2], _STRING), field(default=None)) for flag in (*OUR_FLAGS, *CHUNK_FLAGS)]
    fields = [each for each in fields if each[0] not in config.__dataclass_fields__]
    extended = dataclasses.make_dataclass(config.__name__, fields, bases=(config,), namespace={"__module__": config.__module__})
    model_class.__dataclass = MODEL_DATACLASS_REGISTRY[name] = extended
    node = extended()
    node._name = name
    ConfigStore.instance().store(name=name, group="model", node=node, provider="residual_st")


# not `int | None`: OmegaConf 2.0, which fairseq 0.12.2 pins, cannot read it
_STRING = Optional[str]  # noqa: UP045
_TYPES = {"group_size": Optional[int], "residual_diagonal": Optional[bool], "left_chunks": Optional[int]}  # noqa: UP045


def defaults_of(model_class: type) -> dict[str, Defaults]:
    return getattr(model_class, "sharing_defaults", DENSE)


def add_sharing_flags(parser: argparse.ArgumentParser, defaults: dict[str, Defaults]) -> None:
    """Add the flags of both parts to a model's parser. The defaults are shown in the help."""
    for part in PARTS:
        add_flags(parser, f"{part}_", defaults[part])
        parser.add_argument(
            f"--{part}-inference-mode",
            choices=INFERENCE_MODES,
            help="form in translation: compact keeps the shared form in memory; fast composes every weight once and needs "
            f"the memory of a dense {part} (default: compact)",
        )
    parser.add_argument(
        "--encoder-stack",
        metavar="NAME",
        help="dotted name of the layers to share, if the encoder has several stacks (default: the one with most weights)",
    )
    add_chunk_flags(parser)


def completed(flags, part: str, defaults: dict[str, Defaults] = DENSE) -> dict:
    """The flags of a part's form, by name, with defaults for those that are not set."""
    form_flags = argparse.Namespace(**{name: getattr(flags, name, None) for name in flag_names(f"{part}_")})
    complete_flags(form_flags, f"{part}_", defaults[part])
    return vars(form_flags)


def requested(flags, part: str, defaults: dict[str, Defaults] = DENSE) -> dict:
    """The form described by a part's flags, as arguments of `form_of`."""
    return dict(zip(("group_size", "pattern", "rank", "diagonal"), completed(flags, part, defaults).values()))


def shares_or_adds(form: dict) -> bool:
    """Whether a `requested` form changes any layer."""
    return form["group_size"] != 1 or form["pattern"] != "adjacent" or str(form["rank"]) != "0" or form["diagonal"]


def is_dense(flags: argparse.Namespace) -> bool:
    """Whether a model with these flags shares nothing and has no residuals."""
    defaults = defaults_of(ARCH_MODEL_REGISTRY.get(flags.arch))
    return not any(shares_or_adds(requested(flags, part, defaults)) for part in PARTS)


def shaping_flags(arch: str) -> list[str]:
    """Names of the flags that define a model of this architecture, from its parser; none for an unknown one."""
    register()
    if arch not in ARCH_MODEL_REGISTRY:
        return []
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    names = dict.fromkeys(action.dest for action in parser._actions)  # argparse has no public way to ask for them
    return [name for name in names if name not in _NOT_SHAPING]


def flag_difference(loaded: argparse.Namespace, expected: argparse.Namespace, names: list[str]) -> str | None:
    """Description of the first of these flags in which two models differ. Flags that one of them lacks are skipped."""
    for name in names:
        values = [getattr(flags, name, None) for flags in (loaded, expected)]
        if None not in values and str(values[0]) != str(values[1]):
            return f"it has {name}={values[0]}, this model {name}={values[1]}"
    return None
