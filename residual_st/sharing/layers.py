"""Sharing the matrices of a stack of layers with the same structure."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from residual_st.sharing.copying import deep_copy
from residual_st.sharing.form import SharedForm
from residual_st.sharing.linear import LowRankLinear, ResidualLinear
from residual_st.sharing.plan import SharingPlan
from residual_st.sharing.pointwise import LowRankConv1d, ResidualConv1d
from residual_st.sharing.ranks import Alone, ResidualRanks
from residual_st.sharing.shareable import (
    bias_of,
    check_alike,
    check_form,
    in_order,
    matrices,
    plain_matrices,
    saved_name,
    shape_of,
    weight_of,
)


class SharedWeights(nn.ModuleDict):
    """The one owner of every shared weight: group -> matrix name -> parameter of shape (out, in).

    In a state dict a weight appears once, as `GROUP.MATRIX`. The plan is stored with them as `layer_groups`: two plans with the
    same number of groups have the same keys and shapes, and loading one into the other would go unnoticed. It consists of floats,
    because averages of models (also fairseq's `--store-ema`) compute with every entry of a state dict, which leaves equal floats
    unchanged up to rounding.
    """

    layer_groups: Tensor

    def __init__(self, plan: SharingPlan, owners: dict[int, nn.ParameterDict]):
        super().__init__({str(group): owner for group, owner in owners.items()})
        self.plan = plan
        if owners:
            groups = torch.tensor(plan.groups, dtype=torch.float32, device="cpu")  # on the meta device it would have no values
            weight = next(self.parameters(), groups)
            self.register_buffer("layer_groups", groups if weight.is_meta else groups.to(weight.device))

    def fault_of(self, layer_groups: Tensor) -> str | None:
        """How stored `layer_groups` differ from the plan of these weights; None if they are equal."""
        groups = tuple(layer_groups.round().int().tolist())
        return (
            None
            if groups == self.plan.groups
            else f"has the layer groups {','.join(map(str, groups))}, but this model has {self.plan}"
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        loaded = state_dict.get(f"{prefix}layer_groups")
        if loaded is not None and len(self):
            if fault := self.fault_of(loaded):
                error_msgs.append(f"the checkpoint {fault}")
            state_dict = {**state_dict, f"{prefix}layer_groups": self.layer_groups}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


def matrix_parameters(layers: nn.ModuleList) -> int:
    """Number of weights in a stack's matrices, with shared ones counted once and without biases."""
    kept: dict[int, int] = {}
    for layer in in_order(layers):
        for _, linear in matrices(layer):
            terms = linear.terms if isinstance(linear, ResidualLinear) else linear.parameters()
            kept |= {id(parameter): parameter.numel() for parameter in terms if parameter is not linear.bias}
    return sum(kept.values())


def matrix_kind(name: str) -> str:
    """The last part of a matrix's name: `self_attn.q_proj` -> `q_proj`."""
    return name.rpartition(".")[2]


def form_of(
    layers: nn.ModuleList,
    group_size: int = 3,
    pattern: str = "adjacent",
    rank: int | str | ResidualRanks = 2,
    diagonal: bool = True,
) -> SharedForm:
    """The form for `share_layers` of these layers.

    Args:
        group_size: K, the number of layers that share one matrix.
        pattern: which layers share, see `SharingPlan.make`.
        rank: R of every matrix, or of each layer and matrix, see `ResidualRanks.make`.
        diagonal: whether every matrix has a diagonal.

    Raises:
        InputError: if the layers cannot be shared (`residual_st.sharing.shareable`), or the plan or a rank does not fit them.
    """
    shapes = check_alike(layers)
    form = SharedForm.make(len(layers), tuple(shapes), group_size, pattern, rank, diagonal)
    check_form(layers, form)
    return form


def current_form(layers: nn.ModuleList, shared_weights: SharedWeights) -> SharedForm:
    """The form of layers that already share, given the owner of their shared weights."""
    plan, rows, diagonal = shared_weights.plan, [], False
    for layer, group in zip(in_order(layers), plan.groups):
        row = {}
        for name, matrix in matrices(layer):
            if isinstance(matrix, ResidualLinear):
                row[name] = matrix.rank if matrix.shared_weight is not None else Alone(matrix.rank)
                diagonal = diagonal or matrix.diagonal is not None
            else:  # a whole matrix: unshared next to shared ones, or in an unchanged layer
                row[name] = Alone(min(shape_of(matrix))) if str(group) in shared_weights else 0
        rows.append(tuple(row.values()))
    return SharedForm(plan, ResidualRanks(tuple(row), tuple(rows)), diagonal)


def alike_in_groups(form: SharedForm, build: Callable[[], nn.Module]) -> nn.ModuleList:
    """A stack for `share_layers`: the layers of a group start equal, with the same tensors for the weights that they will share.

    `build` makes a layer. It is called once per group, so that only one layer per group has its weights in memory.
    """
    first = [build() for _ in range(form.plan.n_groups)]
    layers = nn.ModuleList()
    for index, group in enumerate(form.plan.groups):
        if form.plan.layers_of(group)[0] == index:
            layers.append(first[group])
        else:
            shared = {name for name, rank in form.ranks.of(index).items() if not isinstance(rank, Alone)}
            kept = {id(linear.weight): linear.weight for name, linear in matrices(first[group]) if name in shared}
            layers.append(deep_copy(first[group], kept))
    return layers


def share_layers(layers: nn.ModuleList, form: SharedForm) -> SharedWeights:
    """Replace every `nn.Linear` of `layers` by a ResidualLinear, and every convolution of kernel 1 by a ResidualConv1d, in place.

    Returns the owner of the shared weights.

    The caller registers the result in the module that contains `layers`, so that both are saved and moved together. Each shared
    weight is initialised from the first layer of its group that shares it, so it has the distribution of the layers' own
    initialisation; the other layers' weights are dropped. Biases and everything else stay in their layers. A layer that is alone in
    its group, with ranks 0 and no diagonal, is unchanged, as is a matrix that is `Alone` with its full rank. A matrix that is
    `Alone` with a lower rank becomes a LowRankLinear or LowRankConv1d without a shared weight.

    Args:
        layers: L layers with the same matrices, of any class, possibly in a container that drops or wraps layers.
        form: which layers share, with the rank and diagonal of each, from `form_of`.

    Raises:
        InputError: if the layers cannot be shared (`residual_st.sharing.shareable`), or the form does not fit them.
    """
    check_form(layers, form)
    stack = in_order(layers)
    owners = {}
    for group in filter(form.changes, range(form.plan.n_groups)):
        members = form.plan.layers_of(group)
        shared: dict[str, nn.Parameter] = {}
        for index in reversed(members):
            ranks = form.ranks.of(index)
            its_matrices = plain_matrices(stack[index])
            shared |= {name: _shared_parameter(matrix) for name, matrix in its_matrices if not isinstance(ranks[name], Alone)}
        # built from a dict, the owner is in alphabetical order, which saved optimizers rely on
        owner = owners[group] = nn.ParameterDict({saved_name(name): weight for name, weight in shared.items()})
        for index in members:
            ranks = form.ranks.of(index)
            for name, linear in list(plain_matrices(stack[index])):
                rank, is_conv = ranks[name], isinstance(linear, nn.Conv1d)
                if not isinstance(rank, Alone):
                    shared_kind = ResidualConv1d if is_conv else ResidualLinear
                    stack[index].set_submodule(name, shared_kind(owner, saved_name(name), bias_of(linear), rank, form.diagonal))
                elif rank < min(shape_of(linear)):
                    alone_kind = LowRankConv1d if is_conv else LowRankLinear
                    stack[index].set_submodule(name, alone_kind(weight_of(linear), bias_of(linear), rank, form.diagonal))
    return SharedWeights(form.plan, owners)


def _shared_parameter(matrix: nn.Linear | nn.Conv1d) -> nn.Parameter:
    """The weight for a group to share (out, in): the matrix's parameter, or for a convolution a 2-d view of it."""
    if isinstance(matrix, nn.Conv1d):
        return nn.Parameter(weight_of(matrix).detach(), matrix.weight.requires_grad)
    return matrix.get_parameter("weight")


@torch.no_grad()
def unshare_layers(layers: nn.ModuleList) -> None:
    """The inverse of `share_layers`, in place: every shared matrix becomes an `nn.Linear` or `nn.Conv1d` with the composed weight.

    The caller then removes the owner of the shared weights.
    """
    for index in range(len(layers)):
        for name, linear in list(matrices(layers[index])):
            if isinstance(linear, ResidualLinear):
                layers[index].set_submodule(name, linear.to_dense())
