"""Tables and figure of docs/from_scratch.md."""

from functools import cache

from training_runs.comparison import METRICS, compare
from training_runs.matrix import rate_name

from residual_st.report.figures import training_curves
from tables.common import github, read, with_bounds
from tables.names import reader_name
from tables.quality import MEASURES, headline_of, measures_of

REFERENCE = "dense"
BASELINES = {
    "": ("four-layers", "four-layers-ends", "low-rank"),
    "-taught": ("four-layers-taught", "low-rank-taught", "dense-taught"),
}
_LONG = "-long"
PICTURED = ("dense", "dense-ends", "four-layers", "low-rank", "k3-r2", "k12-r8", "k3-r2-taught", "k12-r8-taught")


def form_of(row: dict) -> str:
    """The name of a system without its learning rate."""
    return row["system"].removesuffix(f"-{rate_name(row['flags']['lr'])}")


@cache
def rows_at_best_rates(results: str = "from_scratch") -> list[dict]:
    """The rows of each form at the learning rate with the lowest dev loss for seed 1, named by the form."""
    best = {}
    for row in (row for row in read(results) if row["seed"] == 1):
        key = row["task"], form_of(row)
        if key not in best or row["dev_nll_loss"] < best[key]["dev_nll_loss"]:
            best[key] = row
    systems = {(row["task"], row["system"]) for row in best.values()}
    return [{**row, "system": form_of(row)} for row in read(results) if (row["task"], row["system"]) in systems]


def from_scratch_rates() -> str:
    """Dev losses and word error rates of the model and its CTC head, by form and learning rate, the best in bold."""
    return _rates("from_scratch")


def from_scratch_human_rates() -> str:
    """The same on human speech."""
    return _rates("from_scratch_human")


def _rates(results: str) -> str:
    best = {(row["task"], row["system"]): row["flags"]["lr"] for row in rows_at_best_rates(results)}
    scores = {
        (entry["system"], entry["metric"]): entry["score"].value
        for system in {row["system"] for row in read(results)}
        for entry in compare([row for row in read(results) if row["system"] == system and row["seed"] == 1], system)
    }
    rows = []
    for row in (row for row in read(results) if row["task"] == "asr" and row["seed"] == 1):
        form, rate = form_of(row), row["flags"]["lr"]
        shown = f"**{rate_name(rate)}**" if best["asr", form] == rate else rate_name(rate)
        losses = f"{row['dev_nll_loss']:.3f}", f"{row['dev_ctc_loss']:.3f}"
        rows.append(
            (
                form,
                -rate,
                [reader_name(form), shown, *losses, *(f"{scores[row['system'], metric]:.1f}" for metric in METRICS["asr"])],
            )
        )
    order = list(dict.fromkeys(form for form, *_ in rows))
    rows.sort(key=lambda row: (order.index(row[0]), row[1]))
    return github([row for *_, row in rows], ["form", "learning rate", "dev nll", "dev CTC", "WER", "WER of the CTC head"])


HEADLINE = (
    "dense", "dense-ends", "k3-r2", "k3-r2-taught", "k12-r8-taught", "k12-r4-taught", "k12-r2-taught",
    "four-layers-taught", "low-rank-taught",
)  # fmt: skip


def from_scratch_headline() -> str:
    """Word error rates of encoders trained from scratch."""
    return headline_of(compare(recognition(), REFERENCE), HEADLINE, ["kept", "seeds"], METRICS["asr"])


def from_scratch_seeds() -> str:
    """Each form relative to dense, both at their best learning rates."""
    return measures_of(compare(recognition(), REFERENCE))


def from_scratch_harder() -> str:
    """The same relative to a dense model whose output projections (`out_proj`, `fc2`) start at 0."""
    return measures_of(compare(recognition(), "dense-ends"))


def from_scratch_long() -> str:
    """The same for three times the updates, including dense."""
    return measures_of(compare(recognition(long=True), f"{REFERENCE}{_LONG}"))


def from_scratch_width() -> str:
    """The width of s2t_transformer_s."""
    return measures_of(compare(rows_at_best_rates("from_scratch_width"), REFERENCE))


def from_scratch_teacher() -> str:
    """A teacher for the dense model, too, on one machine."""
    return measures_of(compare(rows_at_best_rates("from_scratch_teacher"), "dense-ends"))


def from_scratch_both_distilled() -> str:
    """The shared model relative to the dense one, both with the same teacher."""
    entries = compare(rows_at_best_rates("from_scratch_teacher"), "dense-taught")
    return measures_of([entry for entry in entries if entry["system"] in ("dense-taught", "k3-r2-taught")])


def from_scratch_translation() -> str:
    """Translation that starts from these encoders."""
    return measures_of(compare([row for row in rows_at_best_rates() if row["task"] == "st"], "dense-st"))


def recognition(long: bool = False) -> list[dict]:
    """Rows of the recognition task after 5,000 updates, or after three times as many."""
    return [row for row in rows_at_best_rates() if row["task"] == "asr" and row["system"].endswith(_LONG) == long]


def from_scratch_human() -> str:
    """Human speech."""
    return measures_of(compare(rows_at_best_rates("from_scratch_human"), REFERENCE))


def from_scratch_baselines() -> str:
    """Residual forms relative to baselines, each at its best learning rate, both with the same teacher or without."""
    rows, table = recognition(), []
    forms = [form for form in dict.fromkeys(row["system"] for row in rows) if form.startswith("k")]
    for kind, baselines in BASELINES.items():
        chosen = [form for form in forms if form.endswith("-taught") == bool(kind)]
        for baseline in baselines:
            for entry in (entry for entry in compare(rows, baseline) if entry["system"] in chosen):
                size, change = f"{entry['fraction']:.2f}", with_bounds(entry["change_percent"])
                table.append(
                    [MEASURES[entry["metric"]], reader_name(entry["system"]), reader_name(baseline), size, entry["seeds"], change]
                )
    names = [reader_name(form) for form in forms]
    table.sort(key=lambda row: (list(MEASURES.values()).index(row[0]), names.index(row[1])))
    return github(table, ["measure", "form", "baseline", "size", "seeds", "change (95 %)"])


def picture() -> str:
    """Dev losses after each epoch, each form at its best learning rate."""
    curves = {}
    for row in rows_at_best_rates():
        if row["task"] == "asr" and row["system"] in PICTURED:
            curves.setdefault(reader_name(row["system"]), []).append(row["curves"]["dev_nll_loss"])
    return training_curves(
        curves, "dev: negative log-likelihood per word piece, bits", [reader_name(system) for system in PICTURED]
    )


def from_scratch_starts() -> str:
    """Initialisations and learning rates by role: dev losses after 2,000 updates."""
    rows = []
    for row in sorted(read("from_scratch_tried"), key=lambda row: (row["system"], row["dev_nll_loss"])):
        ends = f"{row['branch_ends']:.2g}" + ("" if row["branch_rate"] == 1 else f", learning rate × {row['branch_rate']:.2g}")
        factors = {
            label: row.get(key, 1) for label, key in {"A": "up_rate", "B": "down_rate", "d": "diagonal_rate", "U": "u_rate"}.items()
        }
        rates_by_role = ", ".join(f"{label} × {factor:.2g}" for label, factor in factors.items() if factor != 1)
        down = str(row["down_factor"]) if "K" in row["system"] else ""
        losses = f"{row['dev_nll_loss']:.3f}", f"{row['dev_ctc_loss']:.3f}"
        rows.append([reader_name(row["system"]), f"{row['lr']:g}", row["seed"], ends, down, rates_by_role, *losses])
    return github(
        rows, ["form", "learning rate", "seed", "output projections", "down", "learning rates by role", "dev nll", "dev CTC"]
    )
