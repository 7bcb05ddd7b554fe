"""The matrices of a layer, and the checks whether a stack can share them. Stacks that cannot are refused before any change."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.sharing.form import SharedForm
from residual_st.sharing.linear import ResidualLinear
from residual_st.sharing.pointwise import is_pointwise
from residual_st.sharing.ranks import Alone, ResidualRanks

# nn.MultiheadAttention's output projection has the second class, which only matters for torch's quantisation
_PLAIN = (nn.Linear, torch.nn.modules.linear.NonDynamicallyQuantizableLinear, nn.Conv1d)
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)  # torch has no public interface for this
_STAYS_WHOLE = "stays_whole"  # an attribute of modules, kept by copies

Matrix = nn.Linear | nn.Conv1d | ResidualLinear


def matrices(layer: nn.Module) -> Iterator[tuple[str, Matrix]]:
    """Yield the weight matrices of a layer with their names inside it, such as `self_attn.q_proj`.

    Includes `nn.Linear`s, convolutions with kernel 1 and shared matrices, but not those named by `keep_whole`.
    """
    for name, module in layer.named_modules():
        if (isinstance(module, (nn.Linear, ResidualLinear)) or is_pointwise(module)) and not hasattr(module, _STAYS_WHOLE):
            yield name, module


def plain_matrices(layer: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv1d]]:
    """Those `matrices` that are not shared."""
    for name, matrix in matrices(layer):
        if not isinstance(matrix, ResidualLinear):
            yield name, matrix


def keep_whole(layer: nn.Module, names: Sequence[str]) -> None:
    """Exclude a layer's matrices with these names from sharing and compression, if it has them."""
    for name, module in layer.named_modules():
        if name in names:
            setattr(module, _STAYS_WHOLE, True)


def weight_of(matrix: Matrix) -> Tensor:
    """The weight of a matrix (out, in), in the memory of its parameter. For a shared matrix it is composed."""
    return matrix.weight.flatten(1)  # without the kernel dimension


def bias_of(matrix: Matrix) -> nn.Parameter | None:
    """The bias of a matrix (out,), if it has one."""
    return cast("nn.Parameter | None", matrix.bias)  # in torch's types, a convolution's is any tensor


def shape_of(matrix: Matrix) -> tuple[int, int]:
    """(out, in), without composing a shared weight."""
    if isinstance(matrix, nn.Conv1d):
        return matrix.out_channels, matrix.in_channels
    return matrix.out_features, matrix.in_features


def in_order(layers: nn.ModuleList) -> list[nn.Module]:
    """All of a stack's layers; some containers drop layers at random in iteration (LayerDrop)."""
    return [layers[index] for index in range(len(layers))]


def saved_name(name: str) -> str:
    """A matrix's name in the shared weights, whose names must not contain a dot."""
    return name.replace(".", "_")


def check_alike(layers: nn.ModuleList) -> dict[str, tuple[int, int]]:
    """The matrices that every layer has, name -> (out, in).

    Raises:
        InputError: if layers differ or contain no matrix, a matrix is more than an `nn.Linear` or a convolution with kernel 1, or a
            module is used in several places.
    """
    if not isinstance(layers, nn.Module):
        raise InputError(f"the layers are in a {type(layers).__name__}; they must be in their nn.ModuleList")
    stack = in_order(layers)
    if not stack:
        raise InputError("the list of layers to share is empty")
    shapes = [{name: shape_of(matrix) for name, matrix in _replaceable(layer, index)} for index, layer in enumerate(stack)]
    for index, its_shapes in enumerate(shapes):
        if not its_shapes:
            raise InputError(
                f"layer {index} has no torch.nn.Linear or torch.nn.Conv1d with kernel 1 to share; its weights are "
                f"in {_holders(stack[index])}"
            )
        if its_shapes != shapes[0]:
            raise InputError(f"layer {index} has different matrices from layer 0; layers can share only if their matrices match")
    saved: dict[str, str] = {}
    for name in shapes[0]:
        other = saved.setdefault(saved_name(name), name)
        if other != name:
            raise InputError(f"the matrices {other} and {name} would both be saved as {saved_name(name)}; rename one of them")
    _check_places(stack)
    return shapes[0]


def check_form(layers: nn.ModuleList, form: SharedForm) -> None:
    """Raise InputError if a form does not fit the layers, or would untie tied weights.

    Tied weights stay tied only if their layers share that matrix.
    """
    if len(layers) != len(form.plan.groups):
        raise InputError(f"the plan {form.plan} is for {len(form.plan.groups)} layers, but the stack has {len(layers)}")
    shapes = check_alike(layers)
    if tuple(shapes) != form.ranks.matrices:
        raise InputError(f"the form is for matrices {', '.join(form.ranks.matrices)}, but the layers have {', '.join(shapes)}")
    check_ranks(form.ranks, shapes)
    _check_held_once(layers, layers, ["weight"])
    owners: dict[int, tuple[tuple[int, str, int | None], str]] = {}
    kinds: dict[tuple[int, str], str] = {}
    for index, group in enumerate(form.plan.groups):
        for name, linear in matrices(layers[index]):
            place, is_alone = f"{name} of layer {index}", isinstance(form.ranks.of(index)[name], Alone)
            its = group, name, index if is_alone else None
            owner, first = owners.setdefault(id(linear.weight), (its, place))
            if owner != its and (form.changes(group) or form.changes(owner[0])):
                raise InputError(
                    f"{place} has the same weight as {first}, but does not share with it in this form; give each its own weight"
                )
            kind = f"{linear.weight.dtype} on {linear.weight.device}"
            if not is_alone and kinds.setdefault((group, name), kind) != kind:
                raise InputError(
                    f"{place} is {kind}, but {kinds[group, name]} in another layer of its group; both must be the same"
                )


def check_ranks(ranks: ResidualRanks, shapes: dict[str, tuple[int, int]]) -> None:
    """Raise InputError if a rank exceeds the smaller side of its matrix."""
    for layer in range(len(ranks.rows)):
        for name, rank in ranks.of(layer).items():
            smaller = min(shapes[name])
            if rank > smaller:
                raise InputError(
                    f"residual rank {rank} does not fit {name}, whose smaller side is {smaller}; it must be from 0 to {smaller}"
                )


def _replaceable(layer: nn.Module, index: int) -> Iterator[tuple[str, Matrix]]:
    """`matrices`, after checking that each can be replaced without loss."""
    for name, module in layer.named_modules():
        if type(module).__module__.startswith("peft."):
            raise InputError(f"{name} of layer {index} is wrapped by peft; merge its adapter first with merge_and_unload()")
    for name, matrix in matrices(layer):
        if not name:
            raise InputError(f"layer {index} is a matrix itself, which cannot be replaced; put each layer into an nn.Sequential")
        if fault := _fault(matrix):
            raise InputError(f"{name} of layer {index} {fault}")
        yield name, matrix


def _fault(matrix: Matrix) -> str | None:
    """Description of a property of a matrix that sharing would lose; None if there is none."""
    if isinstance(matrix, ResidualLinear):
        return "is already shared; unshare the layers first"
    plain = "torch.nn.Conv1d" if isinstance(matrix, nn.Conv1d) else "torch.nn.Linear"
    if type(matrix) not in _PLAIN:
        return f"is a {type(matrix).__name__}, which may compute more than x W + b; only plain {plain} can be shared"
    held = set(matrix.state_dict())
    if "weight" not in held or not held <= {"weight", "bias"}:
        return f"has {', '.join(sorted(held)) or 'no weight'} instead of weight and bias; convert it to a plain {plain} first"
    weight = matrix.weight
    if type(weight) is not nn.Parameter or weight.shape[:2] != shape_of(matrix):
        kind = f"{type(weight).__name__} of shape {tuple(weight.shape)}"
        return f"has a {kind} as its weight; share layers before sharding or quantising them"
    if not weight.is_floating_point():
        return f"has weights of {weight.dtype}; only floating-point weights can be shared"
    if "forward" in vars(matrix):
        return f"has its own forward, which may compute more than x W + b; only plain {plain} can be shared"
    hooks = [hook for kind in _HOOKS for hook in getattr(matrix, kind).values()]
    if hooks:
        called = getattr(hooks[0], "__qualname__", type(hooks[0]).__name__)
        return f"has the hook {called}, which sharing would drop; remove it first"
    return None


def _holders(layer: nn.Module) -> str:
    """The classes of modules that contain a layer's weights, each with the name of one module."""
    parts = [(name or "the layer itself", module) for name, module in layer.named_modules()]
    holders = [part for part in parts if any(parameter.dim() > 1 for parameter in part[1].parameters(recurse=False))]
    leaves = [part for part in parts if not list(part[1].children())]  # for example with packed weights
    kinds = {type(module).__name__: name for name, module in reversed(holders or leaves)}
    return ", ".join(f"{kind} ({name})" for kind, name in kinds.items())


def _check_places(stack: list[nn.Module]) -> None:
    """Raise InputError if a layer or a matrix is used in several places, of which only one would be replaced."""
    places: dict[int, str] = {}
    for index, layer in enumerate(stack):
        for name, module in layer.named_modules(remove_duplicate=False):
            if not name or isinstance(module, nn.Linear) or is_pointwise(module):
                place = f"{name} of layer {index}" if name else f"layer {index}"
                first = places.setdefault(id(module), place)
                if first != place:
                    raise InputError(f"{place} and {first} are the same module; give each place its own module")


def check_untied(model: nn.Module, layers: nn.ModuleList) -> None:
    """Raise InputError if a bias belongs to two of the layers' matrices, or a matrix or its weight is also used outside the layers.

    Sharing leaves biases unchanged, but compression gives each matrix its own.
    """
    first: dict[int, str] = {}
    for index in range(len(layers)):
        for name, linear in matrices(layers[index]):
            place = f"{name} of layer {index}"
            if linear.bias is not None and first.setdefault(id(linear.bias), place) != place:
                raise InputError(f"{place} has the same bias as {first[id(linear.bias)]}; give each its own bias")
    _check_held_once(model, layers, ("weight", "bias"))


def _check_held_once(model: nn.Module, layers: nn.ModuleList, kinds: Sequence[str]) -> None:
    """Raise InputError if a matrix of the layers, or its weight or bias, is also used by another module of the model."""
    stack = in_order(layers)
    linears = {linear: f"{name} of layer {index}" for index, layer in enumerate(stack) for name, linear in matrices(layer)}
    parameters = {id(getattr(linear, kind)): place for linear, place in linears.items() for kind in kinds}
    inside = {module for layer in stack for module in layer.modules()}
    for name, module in model.named_modules():
        held = [] if module in linears else [(key, parameters.get(id(one))) for key, one in module.named_parameters(recurse=False)]
        held += [] if module in inside else [(key, linears.get(child)) for key, child in module.named_children()]
        for key, place in held:
            if place is not None:
                other = f"{name}.{key}".lstrip(".")
                raise InputError(
                    f"{place} is also {other} of {type(model).__name__}, which would keep the old values; give each its own"
                )
