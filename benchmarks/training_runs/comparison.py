"""Compare the rows of a matrix of training runs: every system relative to the dense one."""

from collections.abc import Iterable

import numpy as np
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from residual_st.evaluation.scores import RATES, relative_change, score_interval
from training_runs.counts import counts_of
from training_runs.matrix import SANITY

METRICS = {"asr": ("wer", "ctc_wer"), "st": ("bleu",)}


def metrics_of(task: str) -> tuple[str, ...]:
    """The metrics of a task, by default BLEU."""
    return METRICS.get(task, ("bleu",))


def compare(rows: Iterable[dict], reference: str = "dense", significance: bool = False) -> list[dict]:
    """One entry for each task, metric and system: its score over seeds and its change from `reference`, with 95 % intervals.

    Seeds that both systems have are used. Later rows of a run replace earlier ones. `ctc_wer` is the word error
    rate of the CTC head, decoded greedily.

    Args:
        significance: whether to add `p_value` of sacreBLEU's paired bootstrap for BLEU.
    """
    runs = {(row["task"], row["system"], row["seed"]): row for row in rows}
    table = []
    for task, system in dict.fromkeys((task, system) for task, system, _ in runs):
        seeds = [seed for (row_task, row_system, seed) in runs if (row_task, row_system) == (task, system)]
        seeds = sorted(seed for seed in seeds if (task, reference, seed) in runs)
        system_rows, reference_rows = ([runs[task, name, seed] for seed in seeds] for name in (system, reference))
        if not seeds:
            continue
        for metric in metrics_of(task):
            kind = metric.removeprefix("ctc_")
            counts = [[counts_of(row, metric) for row in rows_of] for rows_of in (system_rows, reference_rows)]
            if any(each is None for rows_of in counts for each in rows_of):
                continue
            entry = {
                "task": task,
                "system": system,
                "fraction": round(system_rows[0]["encoder_matrix_parameters"] / reference_rows[0]["encoder_matrix_parameters"], 4),
                "metric": metric,
                "units": reference_rows[0]["bleu_signature" if kind == "bleu" else "wer_units"],
                "seeds": len(seeds),
                "score": score_interval(kind, counts[0]),
                "change_percent": relative_change(kind, *counts) if system != reference else None,
                "by_seed": [float(RATES[kind](each.sum(0))) for each in counts[0]],
                "chrf": float(np.mean([row["chrf"] for row in system_rows])),
                "core_minutes": float(np.mean([row["core_minutes"] for row in system_rows])),
            }
            if significance and system != reference and metric == "bleu":
                entry["p_value"] = _p_value(*counts)
            table.append(entry)
    return table


def verdicts(entries: list[dict]) -> list[dict]:
    """Whether each task and metric can tell encoders apart, from the entries of the `SANITY` systems.

    Bypassing all layers must break the trained model: word errors above 90 %, or BLEU below a fifth. Keeping every third layer must
    cost at least 50 % more errors, or half the BLEU. A model with a third of the layers, trained the same way, must have 10 % more
    errors or 3 BLEU less, with an interval that excludes 0.
    """
    by_system = {(entry["task"], entry["metric"], entry["system"]): entry for entry in entries}
    answers_by_metric = []
    for task, metric in dict.fromkeys((task, metric) for task, metric, _ in by_system):
        systems = [by_system.get((task, metric, system)) for system in SANITY]
        if None in systems:
            continue
        dense, bypassed, third, shallow = systems
        change = shallow["change_percent"]
        if metric == "bleu":
            destroyed = bypassed["score"].value < dense["score"].value / 5
            harmed = third["score"].value < dense["score"].value / 2
            missed = dense["score"].value - shallow["score"].value >= 3 and change.high < 0
        else:
            destroyed = bypassed["score"].value > 90
            harmed = third["change_percent"].value >= 50
            missed = change.value >= 10 and change.low > 0
        answers = {"destroyed without layers": destroyed, "harmed with a third": harmed, "worse trained with a third": missed}
        answers_by_metric.append({"task": task, "metric": metric, **answers, "can tell": destroyed and harmed and missed})
    return answers_by_metric


def _p_value(counts: list[np.ndarray], reference: list[np.ndarray]) -> float:
    """The p-value of sacreBLEU's paired bootstrap over the outputs of all seeds."""
    systems = [("reference", np.vstack(reference)), ("system", np.vstack(counts))]
    _, scores = PairedTest(systems, {"BLEU": _OfCounts(references=[[""]])}, None, test_type="bs", n_samples=1000)()
    return scores["BLEU"][1].p_value


class _OfCounts(BLEU):
    """sacreBLEU's BLEU for systems given as counts of their sentences instead of texts."""

    def _extract_corpus_statistics(self, counts: np.ndarray, references: None) -> list[list[float]]:
        return np.hstack([counts[:, 8:], counts[:, :8]]).tolist()  # its lengths come first
