"""Where a result comes from, and where it goes."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def provenance() -> dict:
    """Versions, machine and commit, for a row of results."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "residual_st": version("residual-st"),
        "commit": commit.stdout.strip(),
    }


def append(path: Path, row: dict) -> None:
    """Add one JSON line."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
