"""Timing of functions in alternation, so that a slowdown of the machine affects all of them."""

import statistics
import time
from collections.abc import Callable, Iterable

LEAST_SECONDS = 0.1  # minimum length of a repeat; shorter ones repeat the call


def alternate(
    functions: dict[str, Callable[[], object]],
    repeats: int,
    wait: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call of each function, by name, one mean per repeat. Every other repeat is in reverse order.

    `wait` waits until the device has finished: nothing to do on a CPU, a synchronisation on a GPU.
    `clock` returns seconds: wall time or process time.
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
        seconds(function, 1)  # warm-up: allocations, compilation, caches
        calls[name] = max(1, round(LEAST_SECONDS / seconds(function, 1)))
    return take_turns(functions, repeats, lambda name: seconds(functions[name], calls[name]))


def take_turns(names: Iterable[str], repeats: int, measure: Callable[[str], float]) -> dict[str, list[float]]:
    """Measurements for each name. Every other repeat is in reverse order."""
    values: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in reversed(values) if repeat % 2 else values:
            values[name].append(measure(name))
    return values


def ratios_to(base: str, times: dict[str, list[float]]) -> dict[str, dict]:
    """For every other system, seconds and the ratio to `base` within each repeat: median, minimum and maximum."""
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
