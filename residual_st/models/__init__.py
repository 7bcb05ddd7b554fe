"""fairseq models. fairseq imports this package when it is given the user dir, and with it everything is registered and in order."""

from residual_st import (
    checkpoints,  # noqa: F401 - which lets torch load those of fairseq
    criterions,  # noqa: F401
)
from residual_st.models import s2t_low_rank_transformer, s2t_residual_transformer  # noqa: F401
from residual_st.repairs import mend

mend()
