"""How texts are searched."""

from dataclasses import dataclass, fields

from residual_st.errors import InputError


@dataclass(frozen=True)
class Settings:
    """fairseq-generate's flags of the same names, and transformers' `early_stopping`.

    None is for what the model's folder says, as one that was made from a Hugging Face folder does, and else for `FAIRSEQ`.

    Attributes:
        beam: hypotheses of each utterance.
        nbest: of which so many are returned, the best first.
        lenpen: scores are divided by length to this power.
        unkpen: what a word that is not in the vocabulary costs.
        max_len_a: the longest text is of `max_len_a * frames + max_len_b` words, or of the model's own limit if that is less.
        max_len_b: see max_len_a.
        min_len: the shortest, its end not counted.
        early_stopping: whether the search ends as soon as `beam` texts have ended, or continues while a better one may come.
    """

    beam: int | None = None
    nbest: int = 1
    lenpen: float | None = None
    unkpen: float | None = None
    max_len_a: float | None = None
    max_len_b: int | None = None
    min_len: int | None = None
    early_stopping: bool | None = None

    def completed(self, own: "Settings") -> "Settings":
        """These settings, with the model's own and then `FAIRSEQ` where they are None.

        Raises:
            InputError: if more hypotheses are asked for than there are.
        """
        settings = Settings(
            **{
                field.name: next(value for each in (self, own, FAIRSEQ) if (value := getattr(each, field.name)) is not None)
                for field in fields(self)
            }
        )
        if settings.nbest > settings.beam:
            raise InputError(f"--nbest {settings.nbest} is more than --beam {settings.beam}, of which they are taken")
        return settings


FAIRSEQ = Settings(
    beam=5, nbest=1, lenpen=1.0, unkpen=0.0, max_len_a=0.0, max_len_b=200, min_len=1, early_stopping=True
)  # what fairseq-generate does when it is told nothing
