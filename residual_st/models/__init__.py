"""fairseq models."""

from residual_st.models import s2t_low_rank_transformer, s2t_residual_transformer  # noqa: F401
