"""The page's figures, as SVG text."""

import io
from collections.abc import Callable

from residual_st.evaluation.logs import Curve
from residual_st.report.plotting import Axes, pyplot

_SIZE = (5.2, 3.8)  # inches; small, so that labels are readable on a phone
_COLOURS = ("#333333", "#1f6fb4", "#e08214", "#2a9d5c", "#b2397f", "#7a5cc9", "#8c6d31", "#00a0b0")
_MARKERS = "os^"
_LABEL = {"WER": "word error rate, %", "CER": "character error rate, %", "ctc_wer": "error rate of the CTC head, %", "bleu": "BLEU"}


def pareto(entries: list[dict], metric: str, reference: str, names: list[str]) -> str:
    """Plot of the encoder's size against the score, with its 95 % interval.

    Entries have `system`, `fraction`, `score` and, for error rates, `units`. Systems of nearly equal size are drawn side by side.
    A system's position in `names` determines its colour in every figure of a page.
    """

    def draw(axis: Axes) -> None:
        places = _side_by_side([100 * entry["fraction"] for entry in entries])
        for entry, place in zip(entries, places):
            score, index = entry["score"], names.index(entry["system"])
            bars = [[score.value - score.low], [score.high - score.value]]
            colour, marker = _colour(index), _MARKERS[index // len(_COLOURS) % len(_MARKERS)]
            axis.errorbar(place, score.value, yerr=bars, capsize=3, markersize=5, label=entry["system"], color=colour, fmt=marker)
        axis.set_xlabel(f"encoder matrices, % of {reference}'s")
        axis.set_ylabel(_LABEL[entries[0]["units"].error_rate if metric == "wer" else metric])
        axis.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        if metric.endswith("wer"):
            axis.invert_yaxis()  # better is up

    return _svg(draw)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _side_by_side(sizes: list[float], gap: float = 1.6) -> list[float]:
    """Sizes in percent, with overlapping ones moved apart around their mean."""
    places = list(sizes)
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    clusters: list[list[int]] = []
    for index in order:
        if clusters and sizes[index] - sizes[clusters[-1][-1]] <= gap:
            clusters[-1].append(index)
        else:
            clusters.append([index])
    for cluster in clusters:
        mean = sum(sizes[each] for each in cluster) / len(cluster)
        for rank, member in enumerate(cluster):
            places[member] = mean + gap * (rank - (len(cluster) - 1) / 2)
    return places


def training_curves(curves: dict[str, list[Curve]], label: str, names: list[str]) -> str:
    """Training curves: one colour per system, by its position in `names`, and one line per seed."""

    def draw(axis: Axes) -> None:
        for name, seeds in curves.items():
            for number, curve in enumerate(seeds):
                updates, values = zip(*curve)
                entry, marker = name if number == 0 else None, "o" if len(curve) < 30 else None
                colour = _colour(names.index(name))
                axis.plot(updates, values, color=colour, label=entry, marker=marker, markersize=3, linewidth=1.4)
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
