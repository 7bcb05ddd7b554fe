"""The flags that shape a model. Many of them leave no trace in the shapes of its weights: heads, activation, place of the norms."""

import argparse

from fairseq.models import ARCH_MODEL_REGISTRY

from residual_st.sharing.form import SharedForm, flag_names

# in the order in which fairseq registers them
ENCODER_MATRICES = (*(f"self_attn.{name}" for name in ("k_proj", "v_proj", "q_proj", "out_proj")), "fc1", "fc2")

ENCODER_DEFAULTS = (3, 2, True)  # K, R, diagonal

# those that the stock model does not have
OUR_FLAGS = (*flag_names("encoder_"), "encoder_inference_mode")

# flags of a model that act in training alone, name files, or choose among ways to compute the same
_NOT_SHAPING = {
    "activation_dropout",
    "attention_dropout",
    "dropout",
    "encoder_freezing_updates",
    "encoder_inference_mode",
    "load_pretrained_decoder_from",
    "load_pretrained_encoder_from",
}


def encoder_form(args) -> SharedForm:
    """The form of the encoder that a model's flags describe."""
    return SharedForm.from_flags(args, "encoder_", ENCODER_MATRICES)


def shaping_flags(arch: str) -> list[str]:
    """Names of the flags that shape a model of this architecture, as its own parser has them; none for an unknown one."""
    if arch not in ARCH_MODEL_REGISTRY:
        return []
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    names = dict.fromkeys(action.dest for action in parser._actions)  # argparse has no public way to ask for them
    return [name for name in names if name not in _NOT_SHAPING]


def flag_difference(loaded: argparse.Namespace, expected: argparse.Namespace, names: list[str]) -> str | None:
    """The first of these flags that two models do not have in common, in words. A flag that either lacks is passed over."""
    for name in names:
        values = [getattr(flags, name, None) for flags in (loaded, expected)]
        if None not in values and str(values[0]) != str(values[1]):
            return f"it has {name}={values[0]}, this one {name}={values[1]}"
    return None
