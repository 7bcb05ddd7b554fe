"""The cost of a teacher per update: training on labels, with a cache and with a live teacher, in alternation.

    python benchmarks/distillation_cost.py TEACHER.pt DATA [--repeats 9]

The student has the teacher's shape with K=3, R=16. Each turn runs the same eight batches of training data, which are loaded before:
forward, backward and an Adam step, on all threads. A row per kind of teacher is appended to results/distillation_cost.jsonl.
"""

import argparse
import copy
import sys
import tempfile
from argparse import Namespace
from itertools import islice
from pathlib import Path

import torch

from residual_st.benchmark.results import append, cpu_name, provenance
from residual_st.benchmark.timing import alternate, ratios_to
from residual_st.fairseq.checkpoints import model_flags
from residual_st.fairseq.criterions.label_smoothed_cross_entropy_with_residual import (
    LabelSmoothedCrossEntropyWithResidualCriterion as Criterion,
)
from residual_st.fairseq.distillation.cache import write_cache
from residual_st.fairseq.distillation.teacher import LiveTeacher
from residual_st.fairseq.standalone import build_model, load_model
from residual_st.fairseq.training_data import BATCH_FRAMES, TrainingData

RESULTS = Path(__file__).parent / "results" / "distillation_cost.jsonl"
BATCHES = 8


def update(model, optimizer, criterion, batches) -> None:
    for batch in batches:
        loss, sample_size, _ = criterion(model, batch)
        (loss / sample_size).backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dropout", type=float, default=0.1)
    args = parser.parse_args()
    state, teacher = load_model(args.teacher)
    data = TrainingData(state, args.data)
    batches = list(islice(data.batches(data.train_subset, seed=1, shuffle=True), BATCHES))
    flags = model_flags(state, args.teacher)
    options = {"encoder_group_size": 3, "encoder_residual_rank": 16, "encoder_residual_diagonal": True}
    options |= {"encoder_sharing_pattern": "adjacent", "encoder_inference_mode": "compact"}
    options |= {"dropout": args.dropout, "attention_dropout": args.dropout, "activation_dropout": args.dropout}
    options["arch"] = "s2t_residual_transformer_s"
    student = build_model(Namespace(**{**vars(flags), **options})).train()

    def turn(**distillation):
        model = copy.deepcopy(student)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        defaults = {"distill_from": None, "distill_weight": 0.5, "distill_temperature": 1.0, "distill_encoder_weight": 0.0}
        criterion = Criterion(data.task, False, 0.1, 0, False, 0.3, 0.0, **{**defaults, **distillation})
        return lambda: update(model, optimizer, criterion, batches)

    with tempfile.TemporaryDirectory() as folder:
        live = LiveTeacher(teacher, args.teacher)
        outputs = ((batch["id"], batch["target"], live(batch, [])[1]) for batch in batches)
        write_cache(f"{folder}/cache", len(data.task.dataset(data.train_subset)), outputs, 8, live.vocabulary_size)
        times = alternate(
            {
                "labels": turn(),
                "cached": turn(distill_from=f"{folder}/cache"),
                "live": turn(distill_from=str(args.teacher)),
                "live, states": turn(distill_from=str(args.teacher), distill_encoder_weight=1.0),
            },
            args.repeats,
            wait=lambda: None,  # a CPU has no asynchronous work
        )
    case = {"layers": flags.encoder_layers, "width": flags.encoder_embed_dim, "frames": BATCH_FRAMES, "dropout": args.dropout}
    for name, ratio in ratios_to("labels", times).items():
        print(name, ratio)
        row = {"benchmark": "distillation_cost", "system": name, "seed": 1, **ratio, **case, "cpu": cpu_name()}
        append(RESULTS, {**row, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
