"""Size and sharing figures of a Hugging Face model."""

import transformers
from torch import nn

from residual_st.huggingface.kinds import kind_of, stacks_of
from residual_st.stacks import LayerStack
from residual_st.stacks.figures import bytes_and_parameters, residual_energy, sharing_of, sizes_of


def describe(model: transformers.PreTrainedModel) -> dict:
    """The figures of `residual_st.fairseq.description.describe` and `residual_energy`, with the names of the model's kind."""
    stacks = stacks_of(model)
    encoder = stacks["encoder"]
    names = {id(module): name for name, module in model.named_modules()}
    figures = {
        "architecture": type(model).__name__,
        "kind": kind_of(model).name,
        "encoder_stack": names[id(encoder.layers)],
        **sizes_of("encoder", encoder),
        "encoder_parameters": sum(parameter.numel() for parameter in encoder.whole.parameters()),
        "total_parameters": sum(parameter.numel() for parameter in model.parameters()),
        **sharing_of(encoder),
    }
    if "decoder" in stacks and stacks["decoder"].is_shared:
        sharing = {f"decoder_{name}": value for name, value in sharing_of(stacks["decoder"]).items()}
        figures |= sizes_of("decoder", stacks["decoder"]) | sharing
    return {**figures, "parts": _parts(model, stacks), "residual_energy": residual_energy(stacks)}


def _parts(model: transformers.PreTrainedModel, stacks: dict[str, LayerStack]) -> dict[str, dict[str, int]]:
    """Parameters by part, each counted once."""
    parts: dict[str, dict[str, int]] = {}
    counted: set[int] = set()

    def count(name: str, module: nn.Module) -> None:
        members = {id(parameter): parameter for parameter in module.parameters() if id(parameter) not in counted}
        counted.update(members)
        if members:
            parts[name] = bytes_and_parameters(members.values())

    for name, stack in stacks.items():
        count(f"{name} layers", stack.layers)
        if stack.is_shared:
            count(f"{name} shared weights", stack.shared_weights)
        count(f"{name} other", stack.whole)
    count("other", model)
    return parts
