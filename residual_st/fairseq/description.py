"""Size and sharing figures of a model."""

import argparse

from fairseq.models import BaseFairseqModel
from torch import nn

from residual_st.fairseq.flags import PARTS
from residual_st.fairseq.kinds import part_of, stacks_of
from residual_st.stacks import LayerStack
from residual_st.stacks.figures import bytes_and_parameters, sharing_of, sizes_of


def describe(model: BaseFairseqModel, flags: argparse.Namespace) -> dict:
    """Parameters and bytes by part, and the sharing of the encoder and, if it shares anything, of the decoder.

    The sharing is read from the layers, not from the flags.
    """
    stacks = stacks_of(model)
    parameters = _parameters(model, stacks)
    encoder = stacks.get("encoder")
    figures = {
        "arch": flags.arch,
        **sizes_of("encoder", encoder),
        "encoder_parameters": sum(parameter.numel() for parameter in whole_part(model, "encoder").parameters()),
        "total_parameters": sum(parameter.numel() for parameter in model.parameters()),
        **sharing_of(encoder),
    }
    if "decoder" in stacks and stacks["decoder"].is_shared:
        sharing = {f"decoder_{name}": value for name, value in sharing_of(stacks["decoder"]).items()}
        figures |= sizes_of("decoder", stacks["decoder"]) | sharing
    return figures | {"parts": {name: bytes_and_parameters(members) for name, members in parameters.items()}}


def whole_part(model: BaseFairseqModel, part: str) -> nn.Module:
    """The whole encoder or decoder; an empty module if there is none."""
    return getattr(model, part_of(model, part).root, None) or nn.Module()


def _parameters(model: BaseFairseqModel, stacks: dict[str, LayerStack]) -> dict[str, list[nn.Parameter]]:
    """Parameters by part, each once."""
    parts = {}
    if hasattr(whole_part(model, "encoder"), "subsample"):
        parts["encoder subsampler"] = model.encoder.subsample
    for name, stack in stacks.items():
        if name == "encoder" or stack.is_shared:
            parts[f"{name} layers"] = stack.layers
        if stack.is_shared:
            parts[f"{name} shared weights"] = stack.shared_weights
    parameters = {name: list(part.parameters()) for name, part in parts.items()}
    counted = {id(parameter) for members in parameters.values() for parameter in members}
    for name in PARTS:
        rest = [parameter for parameter in whole_part(model, name).parameters() if id(parameter) not in counted]
        parameters[f"{name} other" if f"{name} layers" in parts else name] = rest
        counted |= {id(parameter) for parameter in rest}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in counted]
    return parameters | ({"other": rest} if rest else {})
