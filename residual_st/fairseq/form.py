"""The flags that shape a model. Many of them leave no trace in the shapes of its weights: heads, activation, place of the norms."""

import argparse

from fairseq.models import ARCH_MODEL_REGISTRY

from residual_st.fairseq.user_dir import register
from residual_st.sharing.form import SharedForm, complete_flags, flag_names

PARTS = ("encoder", "decoder")

DEFAULTS = {"encoder": (3, 2, True), "decoder": (1, 0, False)}  # K, R, diagonal

# those that the stock model does not have
OUR_FLAGS = tuple(name for part in PARTS for name in (*flag_names(f"{part}_"), f"{part}_inference_mode"))

# flags of a model that act in training alone, name files, or choose among ways to compute the same
_NOT_SHAPING = {
    "activation_dropout",
    "attention_dropout",
    "dropout",
    "decoder_inference_mode",
    "encoder_freezing_updates",
    "encoder_inference_mode",
    "load_pretrained_decoder_from",
    "load_pretrained_encoder_from",
}


def matrix_shapes(args, part: str) -> dict[str, tuple[int, int]]:
    """The matrices of a layer of the encoder or the decoder, (out, in) by name, in the order in which fairseq registers them."""
    width, inner = getattr(args, f"{part}_embed_dim"), getattr(args, f"{part}_ffn_embed_dim")
    shapes = _attention_shapes("self_attn", width, width)
    if part == "decoder":
        shapes |= _attention_shapes("encoder_attn", width, args.encoder_embed_dim)
    return {**shapes, "fc1": (inner, width), "fc2": (width, inner)}


def _attention_shapes(name: str, width: int, source_width: int) -> dict[str, tuple[int, int]]:
    inputs = {"k_proj": source_width, "v_proj": source_width, "q_proj": width, "out_proj": width}
    return {f"{name}.{projection}": (width, size) for projection, size in inputs.items()}


def form_of_part(args, part: str) -> SharedForm:
    """The form of the encoder or the decoder that a model's flags describe; those that are missing have their defaults."""
    completed = argparse.Namespace(**vars(args))
    complete_flags(completed, f"{part}_", *DEFAULTS[part])
    return SharedForm.from_flags(completed, f"{part}_", tuple(matrix_shapes(args, part)))


def shaping_flags(arch: str) -> list[str]:
    """Names of the flags that shape a model of this architecture, as its own parser has them; none for an unknown one."""
    register()
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
