"""The settings of `compress`."""

from collections.abc import Mapping
from dataclasses import dataclass

from residual_st.errors import InputError
from residual_st.numbers import is_real, require_whole
from residual_st.sharing import ResidualRanks


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """The form that layers are compressed to, and settings of the compression.

    Values are checked here. Whether group size, pattern and ranks fit a stack is checked when the stack is known.

    Attributes:
        group_size: K, at least 1. None for 3, or, with `weight_fraction`, for the one with the least loss; then some or all kinds
            of matrices do not share if that has less loss.
        pattern: which layers share, see `SharingPlan.make`.
        rank: R of every residual, or of each layer and matrix. None for 2, or for the ranks that `weight_fraction` allows.
        weight_fraction: instead of `rank`: kept matrix weights / matrix weights of the dense stack, above 0 and at most 1. Ranks
            are then chosen for each layer and matrix.
        diagonal: whether residuals have a diagonal.
        refine_updates: number of updates that fit all terms together to the dense layers' outputs on the calibration data.
        align: False skips the alignment, for ablations.
        correct: False skips the correction, for ablations.

    Raises:
        InputError: for an invalid value.

    >>> CompressionConfig(group_size=3, rank=16).diagonal
    True
    """

    group_size: int | None = None
    pattern: str = "adjacent"
    rank: int | str | ResidualRanks | None = None
    weight_fraction: float | None = None
    diagonal: bool = True
    refine_updates: int = 0
    align: bool = True
    correct: bool = True

    def __post_init__(self) -> None:
        if self.group_size is not None:
            require_whole("group size", self.group_size, 1)
        if self.rank is not None and self.weight_fraction is not None:
            raise InputError("rank and weight fraction cannot be combined: the fraction chooses the ranks")
        if self.weight_fraction is not None and not (is_real(self.weight_fraction) and 0 < self.weight_fraction <= 1):
            raise InputError(f"weight fraction {self.weight_fraction!r} must be a number above 0 and at most 1")
        require_whole("the number of refinement updates", self.refine_updates, 0)


def refuse_keywords(function: str, keywords: Mapping[str, object]) -> None:
    """Refuse the keywords of version 0.1, and name their replacement.

    Raises:
        TypeError: like Python for an unknown keyword.
    """
    if keywords:
        fields = ", ".join(f"{name}=…" for name in keywords)
        raise TypeError(
            f"{function}() has no keyword {' or '.join(keywords)}; settings are fields of its argument `config`: "
            f"{function}(…, CompressionConfig({fields}))"
        )
