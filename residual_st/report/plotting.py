"""matplotlib, set up so that the same figures give the same file."""

import logging

import matplotlib

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq turns every library's debugging on
matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "residual-st"
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import LogLocator, ScalarFormatter  # noqa: E402

__all__ = ["Axes", "LogLocator", "ScalarFormatter", "pyplot"]
