"""fairseq models."""

from residual_st.models import s2t_residual_transformer  # noqa: F401
