"""Timing of functions that take turns, so that a machine that slows down slows all of them."""

import statistics
import time
from collections.abc import Callable, Iterable

LEAST_SECONDS = 0.1  # of a repeat: shorter ones call their function several times


def alternate(
    functions: dict[str, Callable[[], object]],
    repeats: int,
    wait: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call of each function, by name: the mean of a repeat, in every other repeat the other way round.

    `wait` returns when what the functions started is done: nothing to do on a CPU, a synchronisation on a GPU.
    `clock` tells seconds: those that pass, or those that the process computed.
    """

    def seconds(function: Callable[[], object], calls: int) -> float:
        wait()
        start = clock()
        for _ in range(calls):
            function()
        wait()
        return (clock() - start) / calls

    calls = {}
    for name, function in functions.items():
        seconds(function, 1)  # what is allocated, compiled or looked up but once
        calls[name] = max(1, round(LEAST_SECONDS / seconds(function, 1)))
    return take_turns(functions, repeats, lambda name: seconds(functions[name], calls[name]))


def take_turns(names: Iterable[str], repeats: int, measure: Callable[[str], float]) -> dict[str, list[float]]:
    """What is measured of each name, in every other repeat the other way round."""
    values = {name: [] for name in names}
    for repeat in range(repeats):
        for name in reversed(values) if repeat % 2 else values:
            values[name].append(measure(name))
    return values


def ratios_to(base: str, times: dict[str, list[float]]) -> dict[str, dict]:
    """For every other system, seconds and the ratio to `base` within each repeat: median, least and greatest."""
    rows = {}
    for name, values in times.items():
        if name == base:
            continue
        ratios = [value / reference for value, reference in zip(values, times[base])]
        rows[name] = {
            "median_seconds": round(statistics.median(values), 6),
            f"{base}_seconds": round(statistics.median(times[base]), 6),
            "ratio": round(statistics.median(ratios), 4),
            "ratio_low": round(min(ratios), 4),
            "ratio_high": round(max(ratios), 4),
            "repeats": len(ratios),
        }
    return rows
