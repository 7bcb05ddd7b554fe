"""What fairseq imports from the user dir."""

from residual_st.models import registered  # noqa: F401
