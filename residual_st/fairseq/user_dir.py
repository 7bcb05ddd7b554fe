"""The user dir: the folder of this package, from which fairseq imports `residual_st.models`."""

import importlib
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def register() -> None:
    """Register the models and criterions, and patch fairseq, as fairseq does where it is given the user dir.

    Whoever looks up an architecture or a criterion by name calls it first: a process need not have been started by fairseq.
    """
    importlib.import_module("residual_st.models")
