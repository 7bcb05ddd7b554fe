"""Turn a stack of alike layers into one that shares its matrices."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from residual_st.errors import InputError
from residual_st.modules.residual_linear import ResidualLinear
from residual_st.residual_ranks import ResidualRanks
from residual_st.sharing_plan import SharingPlan


class SharedWeights(nn.ModuleDict):
    """The one owner of every shared weight: group -> matrix name -> parameter of shape (out, in).

    In a state dict a weight appears once, as `GROUP.MATRIX`. The plan stands beside them as `layer_groups`, because two
    plans with as many groups have the same keys and shapes, and loading one into the other would go unnoticed. It is of floats:
    moving averages (fairseq's `--store-ema`), averages and interpolations of models compute with every entry of a state dict, and
    leave equal floats as they are, but for rounding.
    """

    def __init__(self, plan: SharingPlan, owners: dict[int, nn.ParameterDict]):
        super().__init__({str(group): owner for group, owner in owners.items()})
        self.plan = plan
        if owners:
            self.register_buffer("layer_groups", torch.tensor(plan.groups, dtype=torch.float32, device="cpu"))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        loaded = state_dict.get(f"{prefix}layer_groups")
        if loaded is not None and len(self):
            groups = tuple(loaded.round().int().tolist())
            if groups != self.plan.groups:
                error_msgs.append(f"the checkpoint shares its layers as {','.join(map(str, groups))}, this model as {self.plan}")
            state_dict = {**state_dict, f"{prefix}layer_groups": self.layer_groups}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


def matrices(layer: nn.Module) -> Iterator[tuple[str, nn.Linear | ResidualLinear]]:
    """Yield the weight matrices of a layer with their names inside it, such as `self_attn.q_proj`."""
    for name, module in layer.named_modules():
        if isinstance(module, (nn.Linear, ResidualLinear)):
            yield name, module


def matrix_parameters(layers: nn.ModuleList) -> int:
    """Weights that a stack keeps in its matrices, shared ones counted once; biases are not counted."""
    kept = {}
    for layer in layers:
        for _, linear in matrices(layer):
            terms = linear.terms if isinstance(linear, ResidualLinear) else linear.parameters()
            kept |= {id(parameter): parameter.numel() for parameter in terms if parameter is not linear.bias}
    return sum(kept.values())


def matrix_kind(name: str) -> str:
    """The last part of a matrix's name: `self_attn.q_proj` -> `q_proj`."""
    return name.rpartition(".")[2]


def check_alike(layers: nn.ModuleList) -> dict[str, tuple[int, int]]:
    """The matrices that every layer has, name -> (out, in). Raises InputError where layers differ."""
    shapes = None
    for index in range(len(layers)):
        layer_shapes = {name: tuple(linear.weight.shape) for name, linear in matrices(layers[index])}
        shapes = shapes or layer_shapes
        if layer_shapes != shapes:
            raise InputError(f"layer {index} has other matrices than layer 0; only alike layers can share theirs")
    return shapes


def check_ranks(ranks: ResidualRanks, shapes: dict[str, tuple[int, int]]) -> None:
    """Raise InputError where a rank exceeds the smaller side of its matrix."""
    for row in ranks.ranks:
        for rank, (name, shape) in zip(row, shapes.items()):
            if rank > min(shape):
                raise InputError(
                    f"residual rank {rank} does not fit {name}, whose smaller side is {min(shape)}; allowed are 0 to {min(shape)}"
                )


def alike_in_groups(plan: SharingPlan, build: Callable[[], nn.Module]) -> nn.ModuleList:
    """A stack for `share_layers`: the layers of a group start alike, with the same tensors for weights, and biases of their own.

    `build` makes a layer, and is called once a group, so that as many layers have their weights in memory at most.
    """
    first = [build() for _ in range(plan.n_groups)]
    layers = nn.ModuleList()
    for index, group in enumerate(plan.groups):
        if plan.layers_of(group)[0] == index:
            layers.append(first[group])
        else:
            kept = {id(linear.weight): linear.weight for _, linear in matrices(first[group])}
            layers.append(copy.deepcopy(first[group], kept))
    return layers


def share_layers(layers: nn.ModuleList, plan: SharingPlan, rank: int | str | ResidualRanks, diagonal: bool) -> SharedWeights:
    """Replace every `nn.Linear` of `layers` by a ResidualLinear, in place, and return the owner of the shared weights.

    The caller registers the result beside `layers`, so that both are saved and moved together. Each shared weight starts as
    that of its group's first layer, so it is distributed as the layers' own initialisation has it; the other layers' weights
    are let go. Biases and everything else stay with their layers. A layer that is alone in its group, with ranks 0 and no
    diagonal, keeps its `nn.Linear`s: its weights are its own, and a plan of such layers leaves the stack as it was.

    Args:
        layers: L layers with the same `nn.Linear`s, of any class. Containers that drop or wrap layers may hold them.
        plan: the group of each layer.
        rank: R of every matrix, 0 or more, or those of each layer and matrix as `ResidualRanks` has them.
        diagonal: whether every matrix has a diagonal of its own.

    Raises:
        InputError: if the plan or the ranks are for another number of layers, the layers differ, or a rank exceeds its matrix's
            smaller side.
    """
    stack = [layers[index] for index in range(len(layers))]
    if len(stack) != len(plan.groups):
        raise InputError(f"the plan {plan} is for {len(plan.groups)} layers, but the stack has {len(stack)}")
    shapes = check_alike(layers)
    ranks = ResidualRanks.make(rank, len(stack), len(shapes))
    check_ranks(ranks, shapes)

    owners = {}
    for group in range(plan.n_groups):
        members = plan.layers_of(group)
        if len(members) == 1 and not any(ranks.ranks[members[0]]) and not diagonal:
            continue
        # a parameter's name may not hold a dot
        owner = nn.ParameterDict({name.replace(".", "_"): linear.weight for name, linear in matrices(stack[members[0]])})
        owners[group] = owner
        for index in members:
            for rank_of_matrix, (name, linear) in zip(ranks.ranks[index], list(matrices(stack[index]))):
                residual = ResidualLinear(owner, name.replace(".", "_"), linear.bias, rank_of_matrix, diagonal)
                stack[index].set_submodule(name, residual)
    return SharedWeights(plan, owners)
