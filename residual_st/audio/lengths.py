"""The lengths of the pieces that a model translates."""

from dataclasses import dataclass

from residual_st.errors import InputError

FRAMES_PER_SECOND = 100

SHORTEST_SECONDS = 1.0  # that may be asked for as the longest piece


@dataclass(frozen=True)
class Lengths:
    """How long the pieces of a recording are to be: as the segments that the model was trained on.

    Attributes:
        longest: seconds; longer speech without a pause is cut where it is quietest.
        joined: seconds up to which pieces are joined again, for a model that was trained on segments with pauses inside.
    """

    longest: float
    joined: float = 0.0

    def limited(self, seconds: float | None, most: float) -> "Lengths":
        """With another longest length, if it is given.

        Args:
            seconds: what somebody asks for, or None.
            most: what the model takes.

        Raises:
            InputError: if the model cannot take such pieces, or they are too short to hold a word.
        """
        least = min(SHORTEST_SECONDS, most)
        if seconds is None:
            seconds = min(self.longest, most)
        elif not least <= seconds <= most:
            raise InputError(f"longest_seconds={seconds:g} must be at least {least:g} and, for this model, at most {most:g}")
        return Lengths(seconds, min(self.joined, seconds))


# Where nothing is known of a model's training data: MuST-C's segments last 6.3 s in the mean (en-de: 408 hours, 234,000 segments;
# Di Gangi et al. 2019, table 1), and few of them more than 15 s.
DEFAULT = Lengths(15.0)
