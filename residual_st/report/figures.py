"""The page's pictures, as SVG in text."""

import io
from collections.abc import Callable

from residual_st.evaluation.logs import Curve
from residual_st.plotting import Axes, pyplot

_SIZE = (5.2, 3.5)  # inches; small, so that lettering is still read on a telephone
_COLOURS = ("#333333", "#1f6fb4", "#e08214", "#2a9d5c", "#b2397f", "#7a5cc9", "#8c6d31", "#00a0b0")
_LABEL = {"wer": "word error rate, %", "bleu": "BLEU"}


def pareto(entries: list[dict], metric: str, reference: str) -> str:
    """Size of the encoder's matrices against the score, with its 95 % interval. Entries as `compare` makes them."""

    def draw(axis: Axes) -> None:
        for index, entry in enumerate(entries):
            score = entry["score"]
            size = 100 * entry["fraction"]
            bars = [[score.value - score.low], [score.high - score.value]]
            colour = _COLOURS[0] if entry["system"] == reference else _COLOURS[1 + index % (len(_COLOURS) - 1)]
            axis.errorbar(size, score.value, yerr=bars, fmt="o", color=colour, capsize=3, markersize=5)
            axis.annotate(entry["system"], (size, score.value), (6, 4), textcoords="offset points", fontsize=8, color=colour)
        axis.set_xlabel(f"encoder matrices, % of {reference}'s")
        axis.set_ylabel(_LABEL[metric])
        axis.margins(x=0.18, y=0.12)
        if metric == "wer":
            axis.invert_yaxis()  # better is up

    return _svg(draw)


def training_curves(curves: dict[str, list[Curve]], label: str) -> str:
    """One colour a system, one line a seed."""

    def draw(axis: Axes) -> None:
        for index, (name, seeds) in enumerate(curves.items()):
            for number, curve in enumerate(seeds):
                updates, values = zip(*curve)
                style = {"color": _COLOURS[index % len(_COLOURS)], "label": name if number == 0 else None}
                axis.plot(updates, values, marker="o" if len(curve) < 30 else None, markersize=3, linewidth=1.4, **style)
        axis.set_xlabel("updates")
        axis.set_ylabel(label)
        axis.legend(frameon=False, fontsize=8)

    return _svg(draw)


def _svg(draw: Callable[[Axes], None]) -> str:
    figure, axis = pyplot.subplots(figsize=_SIZE, layout="constrained")
    draw(axis)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
