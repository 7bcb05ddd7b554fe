"""Functions that several tables share."""

from pathlib import Path

from tabulate import tabulate

from residual_st.benchmark import results
from residual_st.evaluation.scores import Estimate

RESULTS = Path(__file__).parent.parent / "results"


def read(name: str) -> list[dict]:
    return results.read(RESULTS / f"{name}.jsonl")


def github(rows: list[list], headers: list[str]) -> str:
    """A Markdown table of strings and numbers without formatting."""
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def with_range(row: dict) -> str:
    """A ratio with its minimum and maximum over repeats."""
    return f"{row['ratio']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"


def with_bounds(change: Estimate) -> str:
    """A change in percent with its 95 % interval."""
    return f"{change.value:+.1f} % ({change.low:+.1f} to {change.high:+.1f})"
