"""Lengths of the segments that a model translates."""

from dataclasses import dataclass

from residual_st.errors import InputError

FRAMES_PER_SECOND = 100

SHORTEST_SECONDS = 1.0  # the smallest accepted value for the maximum segment length


@dataclass(frozen=True)
class Lengths:
    """Lengths of a recording's segments, chosen to match the segments that the model was trained on.

    Attributes:
        longest: maximum length in seconds; longer speech without a pause is cut where it is quietest.
        joined: segments are joined up to this length in seconds, for a model trained on segments that contain pauses.
    """

    longest: float
    joined: float = 0.0

    def limited(self, seconds: float | None, most: float) -> "Lengths":
        """The lengths with the maximum `seconds`, if it is given.

        Args:
            seconds: the requested maximum, or None.
            most: the maximum that the model accepts, in seconds.

        Raises:
            InputError: if `seconds` is too long for the model or too short for a word.
        """
        least = min(SHORTEST_SECONDS, most)
        if seconds is None:
            seconds = min(self.longest, most)
        elif not least <= seconds <= most:
            raise InputError(f"longest_seconds={seconds:g} must be at least {least:g} and, for this model, at most {most:g}")
        return Lengths(seconds, min(self.joined, seconds))


# For unknown training data. MuST-C's segments last 6.3 s on average (en-de: 408 hours, 234,000 segments; Di Gangi et al. 2019,
# table 1), and few of them more than 15 s.
DEFAULT = Lengths(15.0)
