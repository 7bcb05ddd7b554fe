"""The equation of ResidualTransformer (Wang & Li, arXiv 2310.02489), as a linear layer."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from residual_st.sharing.product import Terms, both_factors, compose, product


class ResidualLinear(nn.Module):
    """A linear layer whose weight is `U + up @ down + diag(diagonal)`.

    `U`, shape (out, in), belongs to `owner`, a ParameterDict that several layers refer to and none registers. It is looked up by
    name at each access, so that all layers see the parameter after it was moved, cast, copied or sharded. `up` (out, rank), `down`
    (rank, in), `diagonal` (min(out, in),) and `bias` (out,) belong to this layer.

    `up` and `diagonal` are initialised to 0, so the layer equals plain sharing. `down` is drawn with variance 1/rank at any
    width: Adam changes each element of a parameter by about the learning rate, so a step of `up` changes an element of the product
    by as much as a step of `U` or `diagonal`. LoRA's initialisation (Hu et al., arXiv 2106.09685, section 4.1), with
    variance 1/(3 in), is meant for small changes of a trained weight: from scratch, the layers stay nearly equal for too long
    (docs/from_scratch.md).

    Args:
        owner: contains `U` under `name`.
        name: key of `U` in `owner`.
        bias: the layer's bias, or None.
        rank: columns of `up` and rows of `down`; 0 for no low-rank term.
        diagonal: whether there is a diagonal term.

    Attributes:
        compose_from: number of positions from which W is composed in inference; None for the fixed rule of
            `positions_to_compose`. `tune_products` sets it.
    """

    compose_from: float | None = None

    def __init__(self, owner: nn.ParameterDict, name: str, bias: nn.Parameter | None, rank: int, diagonal: bool):
        super().__init__()
        self._owner = (owner,)  # in a tuple, because a module attribute would be registered
        self.name = name
        self._add_terms(owner[name], bias, rank, diagonal)
        if self.down is not None:
            bound = math.sqrt(3 / rank)
            nn.init.uniform_(self.down, -bound, bound)

    def _add_terms(self, like: Tensor, bias: nn.Parameter | None, rank: int, diagonal: bool) -> None:
        """Create this layer's own parameters, for a weight with the shape of `like`."""
        self.out_features, self.in_features = like.shape
        self.rank = int(rank)
        self.up = nn.Parameter(like.new_zeros(self.out_features, rank)) if rank else None
        self.down = nn.Parameter(like.new_empty(rank, self.in_features)) if rank else None
        self.diagonal = nn.Parameter(like.new_zeros(min(like.shape))) if diagonal else None
        self.bias = bias

    @property
    def shared_weight(self) -> nn.Parameter | None:
        """U, shape (out, in); None if nothing is shared."""
        shared: nn.Parameter = self._owner[0][self.name]
        return shared

    @property
    def all_terms(self) -> Terms:
        return Terms(self.shared_weight, self.up, self.down, self.diagonal)

    @property
    def terms(self) -> list[Tensor]:
        """The existing terms among U, `up`, `down` and `diagonal`."""
        return [term for term in self.all_terms if term is not None]

    @property
    def weight(self) -> Tensor:
        """The composed weight, shape (out, in). Each access composes it, for example by fairseq's own attention."""
        return compose(*self.all_terms)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return product(x, self.bias, *self.all_terms, self.compose_from)

    def to_dense(self) -> nn.Linear | nn.Conv1d:
        """An `nn.Linear`, or of a convolution an `nn.Conv1d`, with the composed weight; the bias is the same parameter."""
        return linear_of(self.weight, self.bias).train(self.training)

    def extra_repr(self) -> str:
        terms = f"rank={self.rank}, diagonal={self.diagonal is not None}"
        return f"in_features={self.in_features}, out_features={self.out_features}, {terms}"


class LowRankLinear(ResidualLinear):
    """A linear layer that shares nothing: its weight is `up @ down + diag(diagonal)`.

    It is initialised to its layer's weight projected on a random subspace of the inputs, scaled to the weight's norm.

    Args:
        weight: initial weight (out, in), not stored.
        bias: see ResidualLinear.
        rank: see ResidualLinear; at least 1.
        diagonal: see ResidualLinear.
    """

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, rank: int, diagonal: bool):
        nn.Module.__init__(self)
        self._add_terms(weight, bias, rank, diagonal)
        up, down = both_factors(self.up, self.down)
        with torch.no_grad():
            nn.init.orthogonal_(down)
            down.mul_((self.in_features / rank) ** 0.25)
            up.copy_(weight @ down.T)

    @property
    def shared_weight(self) -> None:
        return None


def residual_energies(linears: Sequence[ResidualLinear]) -> Tensor:
    """Squared Frobenius norms (count,) of `up @ down + diag(diagonal)` for linears of one shape and rank, in float32 or wider.

    The matrices are not formed: this takes O((out + in) rank²) operations per linear, in a few batched calls, so that it can be
    logged for every batch.
    """
    first = linears[0]
    like = first.terms[0]
    wide = torch.promote_types(like.dtype, torch.float32)

    def stacked(term: str) -> Tensor:
        return torch.stack([getattr(each, term) for each in linears]).to(wide)

    energies = torch.zeros(len(linears), dtype=wide, device=like.device)
    if first.rank:
        up, down = stacked("up"), stacked("down")
        energies = ((up.mT @ up) * (down @ down.mT)).sum((1, 2))
    if first.diagonal is not None:
        diagonal = stacked("diagonal")
        energies = energies + diagonal.square().sum(1)
        if first.rank:
            length = diagonal.size(1)
            energies = energies + 2 * ((up[:, :length] * down[:, :, :length].mT).sum(2) * diagonal).sum(1)
    return energies


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An `nn.Linear` with this weight, detached, and this bias, which stays the same parameter if it is one."""
    linear = nn.Linear(weight.size(1), weight.size(0), bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach())
    if bias is not None:
        linear.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias.detach())
    return linear
