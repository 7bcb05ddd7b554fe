"""What the rows of `residual-st benchmark quality` say: every system against the dense one."""

from collections.abc import Iterable

import numpy as np
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import COUNTS, relative_change, score_interval

METRIC = {"asr": "wer", "st": "bleu"}


def compare(rows: Iterable[dict], reference: str = "dense", significance: bool = False) -> list[dict]:
    """One row for each task and system: its mean score over seeds and how far it is from `reference`'s, with 95 % intervals.

    A seed counts where both systems have it. Later rows of a run replace earlier ones.

    Args:
        significance: also sacreBLEU's paired bootstrap, for BLEU: `p_value`.
    """
    runs = {(row["task"], row["system"], row["seed"]): row for row in rows if "system" in row}
    table = []
    for task, system in dict.fromkeys((task, system) for task, system, _ in runs):
        seeds = [seed for (its_task, its_system, seed) in runs if (its_task, its_system) == (task, system)]
        seeds = sorted(seed for seed in seeds if (task, reference, seed) in runs)
        if not seeds:
            continue
        metric = METRIC.get(task, "bleu")
        ours, theirs = ([runs[task, name, seed] for seed in seeds] for name in (system, reference))
        counts = [[COUNTS[metric](_sentences(row)) for row in its] for its in (ours, theirs)]
        dense_size = theirs[0]["encoder_matrix_parameters"]
        entry = {
            "task": task,
            "system": system,
            "fraction": round(ours[0]["encoder_matrix_parameters"] / dense_size, 4),
            "metric": metric,
            "seeds": len(seeds),
            "score": score_interval(metric, counts[0]),
            "change_percent": relative_change(metric, *counts) if system != reference else None,
            "by_seed": [row[metric] for row in ours],
            "chrf": float(np.mean([row["chrf"] for row in ours])),
            "core_minutes": float(np.mean([row["core_minutes"] for row in ours])),
        }
        if significance and system != reference and metric == "bleu":
            entry["p_value"] = _p_value(ours, theirs)
        table.append(entry)
    return table


def _sentences(row: dict) -> list[Sentence]:
    return [Sentence(*pair) for pair in zip(row["references"], row["hypotheses"])]


def _p_value(ours: list[dict], theirs: list[dict]) -> float:
    """sacreBLEU's paired bootstrap of the outputs of all seeds together."""
    systems = [(name, sum((row["hypotheses"] for row in rows), [])) for name, rows in (("reference", theirs), ("system", ours))]
    references = [sum((row["references"] for row in ours), [])]
    _, scores = PairedTest(systems, {"BLEU": BLEU(references=references)}, references, test_type="bs", n_samples=1000)()
    return scores["BLEU"][1].p_value
