"""The rank of each layer's low-rank terms. Pure Python: no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from residual_st.errors import InputError

_ALONE = "="


class Alone(int):
    """The rank of a matrix that shares nothing: `W = A B + diag(d)`, without U. Written `=96`.

    At the full rank, the smaller side of the matrix, it stands for the matrix itself, as the layer has it.
    """

    def __eq__(self, other) -> bool:
        return type(self) is type(other) and int(self) == int(other)

    def __ne__(self, other) -> bool:  # which int has of its own
        return not self == other

    __hash__ = int.__hash__

    def __str__(self) -> str:
        return f"{_ALONE}{int(self)}"


@dataclass(frozen=True)
class ResidualRanks:
    """The rank R of each layer and matrix.

    Attributes:
        matrices: the names of a layer's matrices, in the order in which it registers them.
        rows: for each layer the ranks of these matrices; those that are `Alone` are of matrices without a shared weight.

    >>> ResidualRanks.make("2,4/8", layers=2, matrices=("fc1", "fc2")).of(1)
    {'fc1': 4, 'fc2': 8}
    >>> str(ResidualRanks.make("2/=96", layers=1, matrices=("fc1", "fc2")))
    '2/=96'
    """

    matrices: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def make(cls, ranks: "int | str | ResidualRanks", layers: int, matrices: Sequence[str]) -> "ResidualRanks":
        """Complete one rank for all, or a list with an item for each layer: one rank, or one for each matrix joined by slashes.

        A rank is a number from 0 on, or from 1 on behind `=` for a matrix that shares nothing.

        Raises:
            InputError: for a rank below these, something that is no number, or a list of another length.
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
                    f"residual rank {ranks!r} is not known; it must be a number from 0 on, or a list with an item for each layer, "
                    "which is a number, or one for each matrix such as 2/2/2/2/4/=96, where = is for a matrix that shares nothing"
                ) from None
            if len(row) not in (1, len(matrices)):
                raise InputError(f"residual rank {item!r} is for {len(row)} matrices, but a layer has {len(matrices)}")
            rows.append(row * (len(matrices) // len(row)))
        return cls(tuple(matrices), tuple(rows * (layers // len(rows))))

    def of(self, layer: int) -> dict[str, int]:
        """Matrix name -> rank."""
        return dict(zip(self.matrices, self.rows[layer]))

    @classmethod
    def flag(cls, text: str) -> int | str:
        """What `--encoder-residual-rank` holds: a plain number, or the list as it was given."""
        return int(text) if text.isdecimal() else text

    def to_flag(self) -> int | str:
        """The shortest spelling: a number where all ranks are equal."""
        return self.flag(str(self))

    def __str__(self) -> str:
        rows = ["/".join(map(str, row)) if len(set(row)) > 1 else str(row[0]) for row in self.rows]
        return ",".join(rows) if len(set(rows)) > 1 or "/" in rows[0] else rows[0]


def _parse(text: str) -> int:
    """A rank. Raises ValueError where there is none."""
    rank = Alone(text[len(_ALONE) :]) if text.startswith(_ALONE) else int(text)
    if rank < isinstance(rank, Alone):  # no rank and nothing shared would be no matrix
        raise ValueError(text)
    return rank
