"""Search settings."""

from dataclasses import dataclass, fields

from residual_st.errors import InputError
from residual_st.numbers import is_real, is_whole

MOST_BEAM = 100  # memory grows with the beam
_WHOLE = {"beam": (1, MOST_BEAM), "nbest": (1, MOST_BEAM), "max_len_b": (0, 1_000_000), "min_len": (0, 1_000_000)}
_REAL = ("lenpen", "unkpen", "max_len_a")


@dataclass(frozen=True)
class Settings:
    """fairseq-generate's flags of the same names, and transformers' `early_stopping`.

    None means the setting of the model's folder, which exports of Hugging Face models contain, or else that of `FAIRSEQ`.

    Attributes:
        beam: beam size, hypotheses per utterance.
        nbest: number of hypotheses returned, the best first.
        lenpen: length penalty; scores are divided by length to this power.
        unkpen: penalty for an unknown word.
        max_len_a: a text has at most `max_len_a * frames + max_len_b` words, up to the model's own limit.
        max_len_b: see max_len_a.
        min_len: minimum length in words, without the end symbol.
        early_stopping: whether the search ends when `beam` texts are finished, or continues while a better one is possible.

    Raises:
        InputError: for a value out of range.
    """

    beam: int | None = None
    nbest: int = 1
    lenpen: float | None = None
    unkpen: float | None = None
    max_len_a: float | None = None
    max_len_b: int | None = None
    min_len: int | None = None
    early_stopping: bool | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in _WHOLE.items():
            if (value := getattr(self, name)) is not None and not is_whole(value, least, most):
                raise InputError(f"{name}={value} must be a whole number from {least} to {most:,}")
        for name in _REAL:
            if (value := getattr(self, name)) is not None and not is_real(value):
                raise InputError(f"{name}={value} must be a finite number")

    def completed(self, model_settings: "Settings") -> "CompleteSettings":
        """These settings, with None replaced by the model's own setting, or else by `FAIRSEQ`.

        Raises:
            InputError: if `nbest` is larger than `beam`.
        """
        settings = CompleteSettings(
            **{
                field.name: next(
                    value for each in (self, model_settings, FAIRSEQ) if (value := getattr(each, field.name)) is not None
                )
                for field in fields(self)
            }
        )
        if settings.nbest > settings.beam:
            raise InputError(f"--nbest {settings.nbest} must be at most --beam {settings.beam}")
        return settings


@dataclass(frozen=True)
class CompleteSettings(Settings):
    """Settings without None. The defaults are fairseq-generate's."""

    beam: int = 5
    lenpen: float = 1.0
    unkpen: float = 0.0
    max_len_a: float = 0.0
    max_len_b: int = 200
    min_len: int = 1
    early_stopping: bool = True


FAIRSEQ = CompleteSettings()
