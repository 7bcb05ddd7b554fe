"""The rank of each layer's low-rank terms. Pure Python: no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from residual_st.errors import InputError

_ALONE = "="


class Alone(int):
    """The rank of a matrix that shares nothing: `W = A B + diag(d)`, without U. Written `=96`.

    At the full rank (the smaller side of the matrix) it means the layer's unchanged matrix.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alone) and int(self) == int(other)

    def __ne__(self, other: object) -> bool:  # int defines it, so `__eq__` does not suffice
        return not self == other

    __hash__ = int.__hash__

    def __str__(self) -> str:
        return f"{_ALONE}{int(self)}"


@dataclass(frozen=True)
class ResidualRanks:
    """The rank R of each layer and matrix.

    Attributes:
        matrices: names of a layer's matrices, in the order of their registration.
        rows: for each layer the ranks of these matrices; a rank that is `Alone` belongs to a matrix without a shared weight.

    >>> ResidualRanks.make("2,4/8", layers=2, matrices=("fc1", "fc2")).of(1)
    {'fc1': 4, 'fc2': 8}
    >>> str(ResidualRanks.make("2/=96", layers=1, matrices=("fc1", "fc2")))
    '2/=96'
    """

    matrices: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def make(cls, ranks: "int | str | ResidualRanks", layers: int, matrices: Sequence[str]) -> "ResidualRanks":
        """Expand one rank for all, or a list with one item per layer: one rank, or one rank per matrix joined by slashes.

        A rank is a number of at least 0, or `=` and a number of at least 1 for a matrix that shares nothing.

        Raises:
            InputError: for a lower rank, a value that is not a number, or a list with the wrong length.
        """
        items = str(ranks).split(",")
        if len(items) not in (1, layers):
            raise InputError(f"residual rank {str(ranks)!r} names {len(items)} layers, but the stack has {layers}")
        rows = []
        for item in items:
            try:
                row = tuple(_parse(rank) for rank in item.split("/"))
            except ValueError:
                raise InputError(
                    f"residual rank {ranks!r} is not known; it must be a number of at least 0, or a list with one item per layer: "
                    "a number, or one number per matrix such as 2/2/2/2/4/=96, where = marks a matrix that shares nothing"
                ) from None
            if len(row) not in (1, len(matrices)):
                raise InputError(f"residual rank {item!r} has {len(row)} ranks, but a layer has {len(matrices)} matrices")
            rows.append(row * (len(matrices) // len(row)))
        return cls(tuple(matrices), tuple(rows * (layers // len(rows))))

    def of(self, layer: int) -> dict[str, int]:
        """Matrix name -> rank."""
        return dict(zip(self.matrices, self.rows[layer]))

    @classmethod
    def flag(cls, text: str) -> int | str:
        """The value of `--encoder-residual-rank`: a plain number, or the list as given."""
        return int(text) if text.isdecimal() else text

    def to_flag(self) -> int | str:
        """The shortest notation: a number if all ranks are equal."""
        return self.flag(str(self))

    def __str__(self) -> str:
        rows = ["/".join(map(str, row)) if len(set(row)) > 1 else str(row[0]) for row in self.rows]
        return ",".join(rows) if len(set(rows)) > 1 or "/" in rows[0] else rows[0]


def _parse(text: str) -> int:
    """Parse a rank. Raises ValueError for anything else."""
    if not text.startswith(_ALONE):
        rank, least = int(text), 0
    else:
        rank, least = Alone(text.removeprefix(_ALONE)), 1  # rank 0 without sharing would be no matrix
    if rank < least:
        raise ValueError(text)
    return rank
