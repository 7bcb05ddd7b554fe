"""The form of a stack with shared layers, and the flags that describe it. Pure Python: no torch."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from residual_st.sharing.plan import PATTERNS, SharingPlan
from residual_st.sharing.ranks import ResidualRanks

_NAMES = ("group_size", "sharing_pattern", "residual_rank", "residual_diagonal")

Value = TypeVar("Value")


@dataclass(frozen=True)
class SharedForm:
    """`W[l] = U[plan.groups[l]] + A[l] B[l] + diag(d[l])`: which layers share, the rank of each `A[l] B[l]`, and whether d exists.

    A rank may be `Alone`, which means that its matrix has no U (`residual_st.sharing.ranks.Alone`).

    >>> SharedForm.make(6, ("fc1", "fc2"), group_size=3, rank=2).to_flags("encoder_")["encoder_group_size"]
    3
    """

    plan: SharingPlan
    ranks: ResidualRanks
    diagonal: bool

    @classmethod
    def make(
        cls,
        layers: int,
        matrices: Sequence[str],
        group_size: int = 3,
        pattern: str = "adjacent",
        rank: int | str | ResidualRanks = 2,
        diagonal: bool = True,
    ) -> "SharedForm":
        """The form of a stack of `layers` layers with these matrices.

        Raises:
            InputError: see `SharingPlan.make` and `ResidualRanks.make`.
        """
        return cls(SharingPlan.make(layers, group_size, pattern), ResidualRanks.make(rank, layers, matrices), diagonal)

    @classmethod
    def from_flags(cls, flags: argparse.Namespace, prefix: str, matrices: Sequence[str]) -> "SharedForm":
        """The form described by a model's flags, such as `encoder_group_size` for the prefix `encoder_`."""
        options = (getattr(flags, f"{prefix}{name}") for name in _NAMES)
        return cls.make(getattr(flags, f"{prefix}layers"), matrices, *options)

    def to_flags(self, prefix: str) -> dict[str, object]:
        """Names and values of the flags that describe the form, including the number of layers."""
        largest = max(map(self.plan.groups.count, self.plan.groups))
        values = (largest, self.plan.to_flag(), self.ranks.to_flag(), self.diagonal)
        return {f"{prefix}layers": len(self.plan.groups), **{f"{prefix}{name}": value for name, value in zip(_NAMES, values)}}

    @property
    def is_dense(self) -> bool:
        """Whether nothing is shared or added, so that the layers keep their matrices."""
        return not any(self.changes(group) for group in range(self.plan.n_groups))

    def changes(self, group: int) -> bool:
        """Whether a group's layers share or have residuals."""
        members = self.plan.layers_of(group)
        return len(members) > 1 or self.diagonal or any(self.ranks.of(members[0]).values())


def flag_names(prefix: str) -> tuple[str, ...]:
    """Names of the flags of a form."""
    return tuple(f"{prefix}{name}" for name in _NAMES)


@dataclass(frozen=True)
class Defaults:
    """Default values of a form's flags: K, R and the diagonal. R and the diagonal may differ if layers share."""

    group_size: int
    rank: int
    diagonal: bool
    where_shared: tuple[int, bool] | None = None


def add_flags(parser: argparse.ArgumentParser, prefix: str, defaults: Defaults) -> None:
    """Add a form's flags to a model's parser. `prefix` is `encoder_` or `decoder_`; the defaults are shown in the help."""
    part, option = prefix.rstrip("_"), f"--{prefix}".replace("_", "-")
    rank, diagonal = str(defaults.rank), "yes" if defaults.diagonal else "no"
    if defaults.where_shared:
        rank, diagonal = f"{defaults.where_shared[0]} if layers share, else {rank}", "if layers share"
    parser.add_argument(
        f"{option}group-size",
        type=int,
        metavar="K",
        help=f"number of {part} layers that share one matrix (default: {defaults.group_size}; 1 shares nothing)",
    )
    parser.add_argument(
        f"{option}sharing-pattern",
        metavar="PATTERN",
        help=f"which layers share: {', '.join(PATTERNS)}, or the group of each layer such as 0,0,1,1 (default: adjacent)",
    )
    parser.add_argument(
        f"{option}residual-rank",
        type=ResidualRanks.flag,
        metavar="R",
        help=f"rank of each layer's low-rank residuals (default: {rank}; 0 for none), or a list with one item per layer: a rank, "
        "or one rank per matrix joined by slashes; =R for a matrix that shares nothing",
    )
    parser.add_argument(
        f"{option}residual-diagonal",
        action=argparse.BooleanOptionalAction,
        help=f"add a diagonal to each matrix of each layer (default: {diagonal})",
    )


def complete_flags(flags: argparse.Namespace, prefix: str, defaults: Defaults) -> None:
    """Set a form's flags that are missing or None to their defaults, in place."""

    def complete(name: str, default: Value) -> Value:
        current = getattr(flags, f"{prefix}{name}", None)
        value: Value = default if current is None else current
        setattr(flags, f"{prefix}{name}", value)
        return value

    size, pattern = complete("group_size", defaults.group_size), complete("sharing_pattern", "adjacent")
    rank, diagonal = defaults.rank, defaults.diagonal
    if defaults.where_shared and (size > 1 or pattern not in PATTERNS):
        rank, diagonal = defaults.where_shared
    complete("residual_rank", rank)
    complete("residual_diagonal", diagonal)
