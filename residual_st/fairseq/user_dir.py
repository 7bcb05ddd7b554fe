"""The user dir: the folder of this package, from which fairseq imports `residual_st.models`."""

import importlib
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def register() -> None:
    """Register the models and criterions, and patch fairseq, like fairseq's `--user-dir`.

    Call this before looking up an architecture or a criterion by name, in processes that fairseq did not start.
    """
    importlib.import_module("residual_st.models")
