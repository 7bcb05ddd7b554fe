"""What a layer's matrices are, and which stacks can share them. Every other stack is refused here, by name.

Nothing is changed before.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.sharing.form import SharedForm
from residual_st.sharing.linear import ResidualLinear
from residual_st.sharing.pointwise import is_pointwise
from residual_st.sharing.ranks import Alone, ResidualRanks

# nn.MultiheadAttention's output projection is the second, a mark for torch's quantisation without a meaning of its own
_PLAIN = (nn.Linear, torch.nn.modules.linear.NonDynamicallyQuantizableLinear, nn.Conv1d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # torch has no public way to ask
_STAYS_WHOLE = "stays_whole"  # a mark on modules, which copies of them keep

Matrix = nn.Linear | nn.Conv1d | ResidualLinear


def matrices(layer: nn.Module) -> Iterator[tuple[str, Matrix]]:
    """Yield the weight matrices of a layer with their names inside it, such as `self_attn.q_proj`.

    Those of `nn.Linear`s and of convolutions of kernel 1, and those that are shared already; not those that `keep_whole` names.
    """
    for name, module in layer.named_modules():
        if (isinstance(module, (nn.Linear, ResidualLinear)) or is_pointwise(module)) and not hasattr(module, _STAYS_WHOLE):
            yield name, module


def keep_whole(layer: nn.Module, names: Sequence[str]) -> None:
    """Have the matrices of these names, where a layer has them, be no part of what is shared and compressed."""
    for name, module in layer.named_modules():
        if name in names:
            setattr(module, _STAYS_WHOLE, True)


def weight_of(matrix: Matrix) -> Tensor:
    """The weight of a matrix, (out, in), in the memory of its parameter. That of one that is shared is composed."""
    return matrix.weight.flatten(1)  # without the kernel's dimension


def shape_of(matrix: Matrix) -> tuple[int, int]:
    """(out, in), without composing a shared weight."""
    if isinstance(matrix, nn.Conv1d):
        return matrix.out_channels, matrix.in_channels
    return matrix.out_features, matrix.in_features


def in_order(layers: nn.ModuleList) -> list[nn.Module]:
    """All of a stack's layers; some containers drop layers at random where they are iterated over in training."""
    return [layers[index] for index in range(len(layers))]


def saved_name(name: str) -> str:
    """A matrix's name among the shared weights, whose names may not hold a dot."""
    return name.replace(".", "_")


def check_alike(layers: nn.ModuleList) -> dict[str, tuple[int, int]]:
    """The matrices that every layer has, name -> (out, in).

    Raises:
        InputError: where layers differ or hold no matrix, where a matrix is more than an `nn.Linear` or a convolution of kernel 1,
            and where a module is in several places.
    """
    if not isinstance(layers, nn.Module):
        raise InputError(f"the layers are in a {type(layers).__name__}; give them in the nn.ModuleList that holds them")
    stack = in_order(layers)
    if not stack:
        raise InputError("there are no layers to share")
    shapes = [{name: shape_of(matrix) for name, matrix in _plain_matrices(layer, index)} for index, layer in enumerate(stack)]
    for index, its_shapes in enumerate(shapes):
        if not its_shapes:
            raise InputError(
                f"layer {index} has no torch.nn.Linear or torch.nn.Conv1d of kernel 1, which alone can be shared; its weights are "
                f"in {_holders(stack[index])}"
            )
        if its_shapes != shapes[0]:
            raise InputError(f"layer {index} has other matrices than layer 0; only alike layers can share theirs")
    saved = {}
    for name in shapes[0]:
        other = saved.setdefault(saved_name(name), name)
        if other != name:
            raise InputError(f"the matrices {other} and {name} would both be saved as {saved_name(name)}; rename one of them")
    _check_places(stack)
    return shapes[0]


def check_form(layers: nn.ModuleList, form: SharedForm) -> None:
    """Raise InputError where a form does not fit the layers, or would untie weights that they have in common.

    Weights of one tensor stay tied where their layers share that matrix, and nowhere else.
    """
    if len(layers) != len(form.plan.groups):
        raise InputError(f"the plan {form.plan} is for {len(form.plan.groups)} layers, but the stack has {len(layers)}")
    shapes = check_alike(layers)
    if tuple(shapes) != form.ranks.matrices:
        raise InputError(f"the form is of matrices {', '.join(form.ranks.matrices)}, but the layers have {', '.join(shapes)}")
    check_ranks(form.ranks, shapes)
    _check_held_once(layers, layers, ["weight"])
    owners, kinds = {}, {}
    for index, group in enumerate(form.plan.groups):
        for name, linear in matrices(layers[index]):
            place, is_alone = f"{name} of layer {index}", isinstance(form.ranks.of(index)[name], Alone)
            its = group, name, index if is_alone else None
            owner, first = owners.setdefault(id(linear.weight), (its, place))
            if owner != its and (form.changes(group) or form.changes(owner[0])):
                raise InputError(f"{place} has one weight with {first}, which this form does not share; give each its own")
            kind = f"{linear.weight.dtype} on {linear.weight.device}"
            if not is_alone and kinds.setdefault((group, name), kind) != kind:
                raise InputError(f"{place} is {kind}, but {kinds[group, name]} in another layer of its group, with which it shares")


def check_ranks(ranks: ResidualRanks, shapes: dict[str, tuple[int, int]]) -> None:
    """Raise InputError where a rank exceeds the smaller side of its matrix."""
    for layer in range(len(ranks.rows)):
        for name, rank in ranks.of(layer).items():
            smaller = min(shapes[name])
            if rank > smaller:
                raise InputError(
                    f"residual rank {rank} does not fit {name}, whose smaller side is {smaller}; it must be from 0 to {smaller}"
                )


def _plain_matrices(layer: nn.Module, index: int) -> Iterator[tuple[str, nn.Linear | nn.Conv1d]]:
    """`matrices`, all of which can be replaced without a loss."""
    for name, module in layer.named_modules():
        if type(module).__module__.startswith("peft."):
            raise InputError(f"{name} of layer {index} is wrapped by peft; merge its adapter first, by merge_and_unload()")
    for name, matrix in matrices(layer):
        if not name:
            raise InputError(f"layer {index} is a matrix itself, which cannot be replaced; put each into an nn.Sequential")
        if fault := _fault(matrix):
            raise InputError(f"{name} of layer {index} {fault}")
        yield name, matrix


def _fault(matrix: Matrix) -> str | None:
    """What a matrix is or has that sharing would lose, in words."""
    if isinstance(matrix, ResidualLinear):
        return "is shared already; unshare the layers first"
    plain = "torch.nn.Conv1d" if isinstance(matrix, nn.Conv1d) else "torch.nn.Linear"
    if type(matrix) not in _PLAIN:
        return f"is a {type(matrix).__name__}, which may compute more than x W + b; only plain {plain} can be shared"
    held = set(matrix.state_dict())
    if "weight" not in held or not held <= {"weight", "bias"}:
        return f"holds {', '.join(sorted(held)) or 'no weight'} in place of weight and bias; make a plain {plain} of it first"
    weight = matrix.weight
    if type(weight) is not nn.Parameter or weight.shape[:2] != shape_of(matrix):
        kind = f"{type(weight).__name__} of shape {tuple(weight.shape)}"
        return f"has a {kind} for a weight; share layers before they are sharded or quantised"
    if not weight.is_floating_point():
        return f"has weights of {weight.dtype}; only floating-point ones can be shared"
    if "forward" in vars(matrix):
        return f"has a forward of its own, which may compute more than x W + b; only plain {plain} can be shared"
    hooks = [hook for kind in _HOOKS for hook in getattr(matrix, kind).values()]
    if hooks:
        called = getattr(hooks[0], "__qualname__", type(hooks[0]).__name__)
        return f"has the hook {called}, which sharing would drop; remove it first"
    return None


def _holders(layer: nn.Module) -> str:
    """The classes of modules that hold a layer's weights, each with the name of one."""
    parts = [(name or "the layer itself", module) for name, module in layer.named_modules()]
    holders = [part for part in parts if any(parameter.dim() > 1 for parameter in part[1].parameters(recurse=False))]
    leaves = [part for part in parts if not list(part[1].children())]  # as where weights are packed
    kinds = {type(module).__name__: name for name, module in reversed(holders or leaves)}
    return ", ".join(f"{kind} ({name})" for kind, name in kinds.items())


def _check_places(stack: list[nn.Module]) -> None:
    """Raise InputError where a layer or a matrix is in several places, of which only one would be replaced."""
    places = {}
    for index, layer in enumerate(stack):
        for name, module in layer.named_modules(remove_duplicate=False):
            if not name or isinstance(module, nn.Linear) or is_pointwise(module):
                place = f"{name} of layer {index}" if name else f"layer {index}"
                first = places.setdefault(id(module), place)
                if first != place:
                    raise InputError(f"{place} and {first} are one module; give each place a module of its own")


def check_untied(model: nn.Module, layers: nn.ModuleList) -> None:
    """Raise InputError where a model has a bias of the layers' matrices twice, or a matrix or its weight outside the layers too.

    Sharing alone keeps biases as they are. Compression gives each matrix its own.
    """
    first = {}
    for index in range(len(layers)):
        for name, linear in matrices(layers[index]):
            place = f"{name} of layer {index}"
            if linear.bias is not None and first.setdefault(id(linear.bias), place) != place:
                raise InputError(f"{place} has one bias with {first[id(linear.bias)]}; give each its own")
    _check_held_once(model, layers, ("weight", "bias"))


def _check_held_once(model: nn.Module, layers: nn.ModuleList, kinds: Sequence[str]) -> None:
    """Raise InputError where a matrix of the layers, or its weight or bias, is held by another module of the model too."""
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
                raise InputError(f"{place} is also {other} of {type(model).__name__}, which would not follow; give each its own")
