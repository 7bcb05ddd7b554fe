"""Run every command on untrusted files: none may crash it, run code, use much memory or time, or write other files.

    python benchmarks/faults/corruption.py WORK [--families NAME …] [--output ROWS.jsonl]

WORK is a folder of `kills.py`, or a new one; files are derived from its corpus and models. Each case is one file and one command
in a separate process, with a limit of time and of memory above that at its start. Python's audit events show which programs it
runs, which files it opens for writing, and where it connects. It must succeed, if the fault does not matter, or end with exit
status 2 and one line.

A row per case is appended to results/faults_corruption.jsonl; cases that have rows are skipped.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path

import checkpoint_files
import data_files
import device_files
import kills
import pickle_files
import torch
from attempt import attempt

from residual_st.benchmark import results
from residual_st.cli import main as residual_st

RESULTS = kills.ROOT / "benchmarks" / "results" / "faults_corruption.jsonl"
FAMILIES = {
    "damaged checkpoints": checkpoint_files.damaged,
    "pickles that run commands": pickle_files.programs,
    "checkpoints that say they are large": pickle_files.bombs,
    "checkpoints with wrong contents": checkpoint_files.contents,
    "manifests and configurations": data_files.manifests,
    "audio": data_files.audio,
    "exported folders": device_files.exported,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    work = args.work.absolute()
    kills.set_up(work)
    if not (work / "device").exists():
        data = work / "corpus" / "en-de"
        kills.run([*kills.RESIDUAL_ST, "export", work / "shared.pt", "--data", data, "--output", work / "device"])
    torch.set_num_threads(1)
    warm_up(work)
    done = {row["system"] for row in results.read(args.output)}
    for family in args.families:
        for name, make, commands in FAMILIES[family](work):
            for command in commands:
                case = f"{family}: {name}: {' '.join(command[:2] if command[0] == 'benchmark' else command[:1])}"
                if case in done:
                    continue
                outcome = attempt(work, make, command)
                if outcome["fault"]:
                    print(json.dumps({"system": case, **{key: outcome[key] for key in ("fault", "message")}}), flush=True)
                else:
                    del outcome["message"]  # only kept for faults
                row = {"system": case, "family": family, "seed": 1, **outcome, **results.provenance()}
                results.append(args.output, row)


def warm_up(work: Path) -> None:
    """Import the modules of all commands, so that forked processes need not."""
    for command in (["inspect", work / "shared.pt"], ["translate", work / "device", kills.ROOT / "tests/speech/arctic_a0007.wav"]):
        with contextlib.redirect_stdout(io.StringIO()):
            residual_st([str(part) for part in command])


if __name__ == "__main__":
    main()
