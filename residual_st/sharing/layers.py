"""Turn a stack of alike layers into one that shares its matrices."""

from collections.abc import Callable

import torch
from torch import nn

from residual_st.sharing.copying import deep_copy
from residual_st.sharing.form import SharedForm
from residual_st.sharing.linear import LowRankLinear, ResidualLinear
from residual_st.sharing.plan import SharingPlan
from residual_st.sharing.pointwise import LowRankConv1d, ResidualConv1d
from residual_st.sharing.ranks import Alone, ResidualRanks
from residual_st.sharing.shareable import check_alike, check_form, in_order, matrices, saved_name, shape_of, weight_of


class SharedWeights(nn.ModuleDict):
    """The one owner of every shared weight: group -> matrix name -> parameter of shape (out, in).

    In a state dict a weight appears once, as `GROUP.MATRIX`. The plan stands beside them as `layer_groups`, because two
    plans with as many groups have the same keys and shapes, and loading one into the other would go unnoticed. It is of floats:
    moving averages (fairseq's `--store-ema`), averages and interpolations of models compute with every entry of a state dict, and
    leave equal floats as they are, except rounding.
    """

    def __init__(self, plan: SharingPlan, owners: dict[int, nn.ParameterDict]):
        super().__init__({str(group): owner for group, owner in owners.items()})
        self.plan = plan
        if owners:
            groups = torch.tensor(plan.groups, dtype=torch.float32, device="cpu")  # on the meta device it would say nothing
            weight = next(self.parameters(), groups)
            self.register_buffer("layer_groups", groups if weight.is_meta else groups.to(weight.device))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        loaded = state_dict.get(f"{prefix}layer_groups")
        if loaded is not None and len(self):
            groups = tuple(loaded.round().int().tolist())
            if groups != self.plan.groups:
                error_msgs.append(f"the checkpoint shares its layers as {','.join(map(str, groups))}, this model as {self.plan}")
            state_dict = {**state_dict, f"{prefix}layer_groups": self.layer_groups}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


def matrix_parameters(layers: nn.ModuleList) -> int:
    """Weights that a stack keeps in its matrices, shared ones counted once; biases are not counted."""
    kept = {}
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
    """The form of these layers for `share_layers`.

    Args:
        group_size: K, how many layers share one matrix.
        pattern: which layers share, as in `SharingPlan.make`.
        rank: R of every matrix, or those of each layer and matrix as `ResidualRanks.make` takes them.
        diagonal: whether every matrix has a diagonal of its own.

    Raises:
        InputError: if the layers cannot be shared (`residual_st.sharing.shareable`), or the plan or a rank does not fit them.
    """
    shapes = check_alike(layers)
    form = SharedForm.make(len(layers), tuple(shapes), group_size, pattern, rank, diagonal)
    check_form(layers, form)
    return form


def current_form(layers: nn.ModuleList, shared_weights: SharedWeights) -> SharedForm:
    """The form of layers that share, with the owner of their shared weights."""
    plan, rows, diagonal = shared_weights.plan, [], False
    for layer, group in zip(in_order(layers), plan.groups):
        row = {}
        for name, matrix in matrices(layer):
            if isinstance(matrix, ResidualLinear):
                row[name] = matrix.rank if matrix.shared_weight is not None else Alone(matrix.rank)
                diagonal = diagonal or matrix.diagonal is not None
            else:  # a matrix that stays whole, beside some that share, or in a layer that is as it was
                row[name] = Alone(min(shape_of(matrix))) if str(group) in shared_weights else 0
        rows.append(tuple(row.values()))
    return SharedForm(plan, ResidualRanks(tuple(row), tuple(rows)), diagonal)


def alike_in_groups(form: SharedForm, build: Callable[[], nn.Module]) -> nn.ModuleList:
    """A stack for `share_layers`: the layers of a group start alike, with the same tensors for the weights that they are to share.

    `build` makes a layer, and is called once a group, so that as many layers have their weights in memory at most.
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

    The caller registers the result beside `layers`, so that both are saved and moved together. Each shared weight starts as
    that of the first layer of its group that shares it, so it is distributed as the layers' own initialisation has it; the others'
    weights are let go. Biases and everything else stay with their layers. A layer that is alone in its group, with ranks 0 and no
    diagonal, keeps its modules: its weights are its own, and a plan of such layers leaves the stack as it was. So does a
    matrix that is `Alone` with its full rank; with a lower one it becomes a LowRankLinear or LowRankConv1d, and no shared weight
    stands for it.

    Args:
        layers: L layers with the same matrices, of any class. Containers that drop or wrap layers may hold them.
        form: which layers share and what each keeps, as `form_of` makes it.

    Raises:
        InputError: if the layers cannot be shared (`residual_st.sharing.shareable`), or the form does not fit them.
    """
    check_form(layers, form)
    stack = in_order(layers)
    owners = {}
    for group in filter(form.changes, range(form.plan.n_groups)):
        members = form.plan.layers_of(group)
        shared = {}
        for index in reversed(members):
            sharing = (name for name, rank in form.ranks.of(index).items() if not isinstance(rank, Alone))
            shared |= {name: _shared_parameter(stack[index].get_submodule(name)) for name in sharing}
        # made from a dict the owner is in alphabetic order, as saved optimizers have it
        owner = owners[group] = nn.ParameterDict({saved_name(name): weight for name, weight in shared.items()})
        for index in members:
            ranks = form.ranks.of(index)
            for name, linear in list(matrices(stack[index])):
                rank, is_conv = ranks[name], isinstance(linear, nn.Conv1d)
                if not isinstance(rank, Alone):
                    kind = ResidualConv1d if is_conv else ResidualLinear
                    stack[index].set_submodule(name, kind(owner, saved_name(name), linear.bias, rank, form.diagonal))
                elif rank < min(shape_of(linear)):
                    kind = LowRankConv1d if is_conv else LowRankLinear
                    stack[index].set_submodule(name, kind(weight_of(linear), linear.bias, rank, form.diagonal))
    return SharedWeights(form.plan, owners)


def _shared_parameter(matrix: nn.Linear | nn.Conv1d) -> nn.Parameter:
    """The weight that a group is to share, (out, in): the matrix's own parameter, or one of two dimensions in its memory."""
    weight = matrix.weight
    return nn.Parameter(weight_of(matrix).detach(), weight.requires_grad) if weight.dim() > 2 else weight


@torch.no_grad()
def unshare_layers(layers: nn.ModuleList) -> None:
    """The inverse of `share_layers`, in place: every shared matrix becomes an `nn.Linear` or `nn.Conv1d` with the composed weight.

    What owned the shared weights is of no more use; whoever registered it removes it.
    """
    for index in range(len(layers)):
        for name, linear in list(matrices(layers[index])):
            if isinstance(linear, ResidualLinear):
                layers[index].set_submodule(name, linear.to_dense())
