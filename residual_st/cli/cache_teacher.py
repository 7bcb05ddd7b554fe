"""Store a teacher's most probable words for the training set, for distillation without running the teacher."""

import argparse
import json
from pathlib import Path

from tabulate import tabulate

from residual_st.cli.arguments import add_data_arguments, add_device_argument, add_user_dir_argument, chosen_device
from residual_st.errors import InputError
from residual_st.progress import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="TEACHER.pt", help="checkpoint of the teacher, dense or residual")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DATA", help="folder with the manifests that the teacher was trained on"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to write, the value of --distill-from in training"
    )
    add_data_arguments(parser, "one manifest, the one that students will train on")
    parser.add_argument("--top-k", type=int, default=8, metavar="K", help="number of words stored for each position (default: 8)")
    parser.add_argument("--force", action="store_true", help="overwrite an existing cache")
    add_device_argument(parser)
    add_user_dir_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    if args.output.exists() and not (args.force and (args.output / "meta.json").is_file()):
        raise InputError(f"{args.output} already exists; name another output, or give --force to overwrite a cache")
    if not args.output.absolute().parent.is_dir():
        raise InputError(f"{args.output} cannot be written: the folder {args.output.absolute().parent} does not exist")
    import torch

    from residual_st.fairseq.distillation.cache import write_cache
    from residual_st.fairseq.distillation.teacher import LiveTeacher
    from residual_st.fairseq.standalone import load_model
    from residual_st.fairseq.training_data import TrainingData

    device = chosen_device(args.device)
    state, model = load_model(args.checkpoint)
    teacher = LiveTeacher(model, args.checkpoint)
    if not 1 <= args.top_k <= teacher.vocabulary_size:
        raise InputError(f"--top-k {args.top_k} must be from 1 to {teacher.vocabulary_size}, the size of the dictionary")
    data = TrainingData(state, args.data, args.config_yaml, args.subset, device=device)
    data.require_manifests(validation=False)
    subset = data.train_subset
    if "," in subset:
        raise InputError(
            f"{subset} names several manifests, and a cache holds the sentences of one; join them, or give one --subset"
        )
    batches = data.batches(subset, augment=False)
    outputs = (
        (batch["id"], batch["target"], teacher(batch, [])[1])
        for batch in progress(batches, desc="running the teacher", unit="batch")
    )
    origin = {"teacher": str(args.checkpoint), "subset": subset, "torch": torch.__version__}
    sentences = len(data.task.dataset(subset))
    figures = write_cache(args.output, sentences, outputs, args.top_k, teacher.vocabulary_size, **origin)
    report = {"output": str(args.output), "skipped": sentences - figures["sentences"], **figures}
    print(json.dumps(report, indent=2) if args.json else tabulate(report.items(), tablefmt="plain", intfmt=","))
    return 0
