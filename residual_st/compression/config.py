"""The settings of `compress`."""

from dataclasses import dataclass

from residual_st.errors import InputError
from residual_st.numbers import is_real, require_whole
from residual_st.sharing import ResidualRanks


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """The form that layers are compressed to, and how it is found.

    Values are checked here. Whether they fit a stack (a group size, a pattern, ranks) is checked where the stack is known.

    Attributes:
        group_size: K, at least 1. None for 3, or, with `weight_fraction`, for the one that loses least; some kinds of matrices, or
            all, then share nothing where that loses less.
        pattern: which layers share, as in `SharingPlan.make`.
        rank: R of every residual, or those of each layer and matrix. None for 2, or for what `weight_fraction` allows.
        weight_fraction: instead of `rank`: kept matrix weights over those of the dense stack, above 0 and at most 1. Ranks are then
            chosen for each layer and matrix.
        diagonal: whether residuals have a diagonal.
        refine_updates: steps that move all terms together, so that the layers' outputs on the calibration data come closer to the
            dense ones.
        align: False leaves out the alignment, to see what it does.
        correct: False leaves out the correction, to see what it does.

    Raises:
        InputError: for a value that is not one of these.

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
            raise InputError("a rank and a weight fraction cannot both be given: the fraction chooses the ranks")
        if self.weight_fraction is not None and not (is_real(self.weight_fraction) and 0 < self.weight_fraction <= 1):
            raise InputError(f"weight fraction {self.weight_fraction!r} must be a number above 0 and at most 1")
        require_whole("the number of refinement updates", self.refine_updates, 0)


def refuse_keywords(function: str, keywords: dict[str, object]) -> None:
    """Say where the settings are that version 0.1 took as keywords.

    Raises:
        TypeError: as Python does for a keyword that a function does not have.
    """
    if keywords:
        fields = ", ".join(f"{name}=…" for name in keywords)
        raise TypeError(
            f"{function}() has no keyword {' or '.join(keywords)}; settings are fields of its argument `config`: "
            f"{function}(…, CompressionConfig({fields}))"
        )
