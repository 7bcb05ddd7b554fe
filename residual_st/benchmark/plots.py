"""Plots of benchmark rows."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from residual_st.benchmark.systems import GROUPS
from residual_st.errors import InputError
from residual_st.report.plotting import Axes, LogLocator, ScalarFormatter, pyplot

_COLOURS = {"stock": "#444444", "compact": "#1f6fb4", "fast": "#e08214", "tuned": "#4d9221", "residual": "#1f6fb4"}
_NAMES = {"stock": "dense", "compact": "shared, compact", "fast": "shared, fast", "tuned": "shared, tuned", "residual": "shared"}


def draw(benchmark: str, rows: list[dict], path: Path) -> None:
    """Write PATH.png and PATH.svg. Only rows measured on a CPU are drawn."""
    rows = [row for row in rows if row["device"] == "cpu"]
    panels = _speed_panels(rows) if benchmark == "speed" else _memory_panels(rows)
    if not panels:
        raise InputError("nothing to draw: the rows must differ in length of audio, number of layers or batch size")
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    rows_of_panels = -(-len(panels) // columns)
    figure = pyplot.figure(figsize=(4.6 * columns, 3.6 * rows_of_panels), layout="constrained")
    for place, panel in enumerate(panels, start=1):
        axis = figure.add_subplot(rows_of_panels, columns, place)
        panel(axis)
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(f"{path}.{kind}", dpi=130, metadata={"Date": None} if kind == "svg" else None)
    pyplot.close(figure)


def _speed_panels(rows: list[dict]) -> list[Callable[[Axes], None]]:
    encoder = [row for row in rows if row["measure"] == "encoder"]
    panels: list[Callable[[Axes], None]] = []
    for width in sorted({row["width"] for row in encoder}):
        alone = [row for row in encoder if row["width"] == width and row["batch"] == 1]
        alone = [row for row in alone if row["threads"] == max(row["threads"] for row in alone)]
        place = f"d = {width}, batch 1, {alone[0]['threads']} threads"
        longer = _alike(alone, "rank", "group_size", "layers")
        if len({row["seconds"] for row in longer}) > 1:
            panels.append(partial(_lines, rows=longer, x="seconds", label="audio, s", title=place, logarithmic=True))
        deeper = _in_four_groups(alone)
        if len({row["layers"] for row in deeper}) > 1:
            title = f"{place}, {deeper[0]['seconds']:g} s"
            panels.append(partial(_lines, rows=deeper, x="layers", label="layers in four groups", title=title))
    updates = [row for row in rows if row["measure"] == "update" and row["system"] == "residual"]
    if updates:
        panels.append(lambda axis: _updates(axis, updates))
    return panels


def _memory_panels(rows: list[dict]) -> list[Callable[[Axes], None]]:
    compact = [row for row in rows if row["system"] == "compact"]
    panels: list[Callable[[Axes], None]] = []
    for width in sorted({row["width"] for row in compact}):
        stack = [row for row in compact if row["width"] == width and row["part"] == "layers"]
        deeper = [row for row in stack if row["layers"] == GROUPS * row["group_size"]]
        if len({row["layers"] for row in deeper}) > 1:
            panels.append(partial(_depth, rows=deeper, title=f"d = {width}: the stack of layers"))
    whole = [row for row in compact if row["part"] != "layers" or row["layers"] == compact[0]["layers"]]
    if whole:
        panels.append(partial(_parts, rows=whole))
    return panels


def _alike(rows: list[dict], *keys: str) -> list[dict]:
    """Rows that have the first row's values of `keys`."""
    return [row for row in rows if all(row[key] == rows[0][key] for key in keys)]


def _in_four_groups(rows: list[dict]) -> list[dict]:
    rows = [row for row in rows if row["layers"] == GROUPS * row["group_size"]]
    return rows and _alike(sorted(rows, key=lambda row: -row["layers"]), "rank", "seconds")


def _lines(axis: Axes, rows: list[dict], x: str, label: str, title: str, logarithmic: bool = False) -> None:
    """Encoder latency of the dense model and of each way to run the shared one."""
    for system in ("stock", *dict.fromkeys(row["system"] for row in rows)):
        of_system = [row for row in rows if row["system"] == (rows[0]["system"] if system == "stock" else system)]
        of_system.sort(key=lambda row: row[x])
        key = "stock_seconds" if system == "stock" else "median_seconds"
        axis.plot(
            [row[x] for row in of_system], [1e3 * row[key] for row in of_system], "o-", color=_COLOURS[system], label=_NAMES[system]
        )
    axis.set(xlabel=label, ylabel="encoder, ms", title=title)
    if logarithmic:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ScalarFormatter())
    else:
        axis.set_ylim(bottom=0)
    axis.set_xticks(sorted({row[x] for row in rows}), [f"{tick:g}" for tick in sorted({row[x] for row in rows})])
    axis.minorticks_off()
    axis.legend(frameon=False)


def _updates(axis: Axes, rows: list[dict]) -> None:
    labels = [f"d = {row['width']}, {row['frames'] // 1000}k frames, dropout {row['dropout']:g}" for row in rows]
    ratios = [row["ratio"] for row in rows]
    spread = [[row["ratio"] - row["ratio_low"] for row in rows], [row["ratio_high"] - row["ratio"] for row in rows]]
    _bars(axis, labels, ratios, _COLOURS["residual"], xerr=spread, capsize=3)
    axis.set(xlabel="shared / dense", title="training update")


def _bars(axis: Axes, labels: list[str], ratios: list[float], colour: str, **options) -> None:
    axis.barh(labels, ratios, color=colour, **options)
    axis.axvline(1, color=_COLOURS["stock"], linestyle="--", linewidth=1)
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=7)


def _depth(axis: Axes, rows: list[dict], title: str) -> None:
    for rank, style in zip(sorted({row["rank"] for row in rows}), ("o-", "s--", "^:", "v-.")):
        selected = sorted((row for row in rows if row["rank"] == rank), key=lambda row: row["layers"])
        layers = [row["layers"] for row in selected]
        axis.plot(
            layers, [row["steady_bytes"] / 1e6 for row in selected], style, color=_COLOURS["compact"], label=f"shared, R = {rank}"
        )
    axis.plot(layers, [row["stock_steady_bytes"] / 1e6 for row in selected], "o-", color=_COLOURS["stock"], label=_NAMES["stock"])
    axis.set_xticks(layers)
    axis.set_ylim(bottom=0)
    axis.set(xlabel="layers in four groups", ylabel="memory of the process, MB", title=title)
    axis.legend(frameon=False)


def _parts(axis: Axes, rows: list[dict]) -> None:
    labels = [f"{row['part']}, d = {row['width']}, R = {row['rank']}" for row in rows]
    _bars(axis, labels, [row["steady_bytes_ratio"] for row in rows], _COLOURS["compact"])
    axis.set(xlabel="shared / dense", title="memory of the process")
