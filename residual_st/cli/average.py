"""Average the weights of several checkpoints of one training run."""

import argparse
import re
from pathlib import Path

import torch
from tqdm import tqdm

from residual_st.checkpoints import first_difference, load_checkpoint, save_checkpoint
from residual_st.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CKPT", help="checkpoint files, or one folder with one of the next options"
    )
    parser.add_argument("--output", required=True, help="file to write")
    last = parser.add_mutually_exclusive_group()
    last.add_argument("--num-epoch-checkpoints", type=int, metavar="N", help="the folder's last N checkpointE.pt")
    last.add_argument("--num-update-checkpoints", type=int, metavar="N", help="the folder's last N checkpoint_E_U.pt")


def run(args: argparse.Namespace) -> int:
    if args.num_epoch_checkpoints is not None:
        paths = last_checkpoints(args.checkpoints, r"checkpoint(\d+)\.pt", args.num_epoch_checkpoints)
    elif args.num_update_checkpoints is not None:
        paths = last_checkpoints(args.checkpoints, r"checkpoint_\d+_(\d+)\.pt", args.num_update_checkpoints)
    else:
        paths = args.checkpoints
    save_checkpoint(average(paths), args.output)
    print(f"{args.output}: the average of {', '.join(map(str, paths))}")
    return 0


def last_checkpoints(folders: list[str], pattern: str, count: int) -> list[Path]:
    """The `count` newest checkpoints of a folder, by the number in their names."""
    if len(folders) != 1 or not Path(folders[0]).is_dir():
        raise InputError(f"{' '.join(folders)} is not one folder, where the last N checkpoints could be looked for")
    numbered = [(int(match[1]), path) for path in Path(folders[0]).iterdir() if (match := re.fullmatch(pattern, path.name))]
    if not 1 <= count <= len(numbered):
        raise InputError(f"{folders[0]} holds {len(numbered)} such checkpoints, so the last {count} cannot be averaged")
    return [path for _, path in sorted(numbered, reverse=True)[:count]]


def average(paths: list[str | Path]) -> dict:
    """The first checkpoint with its weights replaced by the mean over all, summed in float64.

    Integers, such as version numbers, are taken from the first. The optimizer's state is left out: it belongs to none of the
    averaged weights, and would make the file three times as large. Half-precision weights become float32.

    Raises:
        InputError: if a checkpoint cannot be read, or is of another model than the first.
    """
    result, totals = None, {}
    for path in tqdm(paths, desc="averaging", unit="checkpoint"):
        state = load_checkpoint(path)
        if result is None:
            result = state
            result.pop("last_optimizer_state", None)
        difference = first_difference(state["model"], result["model"])
        if difference:
            raise InputError(f"{path} is of another model than {paths[0]}: {difference}")
        for name, value in state["model"].items():
            if value.is_floating_point():
                totals[name] = totals.get(name, 0) + value.double()
    for name, total in totals.items():
        kept = result["model"][name].dtype
        result["model"][name] = (total / len(paths)).to(kept if kept == torch.float64 else torch.float32)
    return result
