"""fairseq criterions."""

from residual_st.fairseq.criterions import label_smoothed_cross_entropy_with_residual  # noqa: F401
