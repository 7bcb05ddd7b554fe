"""matplotlib, set up so that the same figures give the same file."""

import logging

from residual_st.errors import InputError

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq turns every library's debugging on
try:
    import matplotlib
except ImportError as error:
    raise InputError("plots need matplotlib: pip install 'residual-st[benchmark]'") from error
matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "residual-st"
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import LogLocator, ScalarFormatter  # noqa: E402

__all__ = ["Axes", "LogLocator", "ScalarFormatter", "pyplot"]
