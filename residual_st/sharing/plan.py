"""Which layers use which shared matrix. Pure Python: no torch."""

from dataclasses import dataclass

from residual_st.errors import InputError
from residual_st.numbers import is_whole

PATTERNS = ("adjacent", "cycle", "cycle-reverse")


@dataclass(frozen=True)
class SharingPlan:
    """The group of each layer: layer `l` uses the shared matrices of group `groups[l]`.

    >>> SharingPlan.make(layers=6, group_size=3).groups
    (0, 0, 0, 1, 1, 1)
    """

    groups: tuple[int, ...]

    @classmethod
    def make(cls, layers: int, group_size: int = 3, pattern: str = "adjacent") -> "SharingPlan":
        """Spread `layers` over ceil(layers / group_size) groups, none larger than `group_size`.

        Args:
            layers: number of layers L.
            group_size: K, the number of layers that share one matrix. It need not divide `layers`. Unused if `pattern` is a list.
            pattern: `adjacent` (ResidualTransformer, arXiv 2310.02489: 0,0,0,1,1,1), `cycle` (0,1,0,1,0,1) or `cycle-reverse`
                (0,1,0,1,1,0; both Takase & Kiyono, arXiv 2104.06022), or the group of each layer, such as `0,0,1,1,1,2`.

        Raises:
            InputError: for a group size outside 1..layers, an unknown pattern, or a list with the wrong length or with gaps.
        """
        if not is_whole(layers, 1):
            raise InputError(f"a stack of {layers} layers cannot share; it must have at least 1 layer")
        if not isinstance(pattern, str):
            raise InputError(f"sharing pattern {pattern!r} must be a string: {', '.join(PATTERNS)}, or a list such as 0,0,1,1")
        if pattern not in PATTERNS:
            return cls(_parse_list(pattern, layers))
        if not is_whole(group_size, 1, layers):
            raise InputError(f"group size {group_size} does not fit a stack of {layers} layers; it must be from 1 to {layers}")
        n_groups = -(-layers // group_size)
        if pattern == "adjacent":
            return cls(tuple(layer // group_size for layer in range(layers)))
        groups = [layer % n_groups for layer in range(layers)]
        if pattern == "cycle-reverse":
            last_round = n_groups * (-(-layers // n_groups) - 1)
            groups[last_round:] = [n_groups - 1 - group for group in groups[last_round:]]
        return cls(tuple(groups))

    @property
    def n_groups(self) -> int:
        return max(self.groups) + 1

    def layers_of(self, group: int) -> list[int]:
        return [layer for layer, group_of_layer in enumerate(self.groups) if group_of_layer == group]

    def to_flag(self) -> str:
        """`adjacent` if `make` gives this plan for it with the size of the largest group, else the list."""
        largest = max(map(self.groups.count, self.groups))
        return "adjacent" if self == SharingPlan.make(len(self.groups), largest) else str(self)

    def __str__(self) -> str:
        return ",".join(map(str, self.groups))


def _parse_list(pattern: str, layers: int) -> tuple[int, ...]:
    try:
        groups = tuple(int(group) for group in pattern.split(","))
    except ValueError:
        raise InputError(
            f"sharing pattern {pattern!r} is not known; it must be one of {', '.join(PATTERNS)}, or each layer's group, "
            "such as 0,0,1,1"
        ) from None
    if len(groups) != layers:
        raise InputError(f"sharing pattern {pattern!r} names {len(groups)} layers, but the stack has {layers}")
    if sorted(set(groups)) != list(range(len(set(groups)))):
        raise InputError(f"sharing pattern {pattern!r} must use every group from 0 to {max(groups)} and no others")
    return groups
