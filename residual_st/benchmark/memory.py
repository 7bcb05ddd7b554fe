"""Memory of residual and dense models, each in its own process, and the time from opening the file to the first output."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import torch

from residual_st.benchmark.footprint import PARTS
from residual_st.benchmark.systems import FRAMES_PER_SECOND, GROUPS, Shape, build_pair
from residual_st.errors import InputError

SECONDS = 5  # length of the first utterance


@dataclass(frozen=True)
class Case:
    """A part of a model whose memory is measured."""

    part: str  # one of PARTS
    shape: Shape
    device: str = "cpu"
    systems: tuple[str, ...] = ("stock", "compact")

    def row(self) -> dict:
        return {"part": self.part, "device": self.device, **self.shape.row()}


def cases(widths: list[int], ranks: list[int], group_sizes: list[int], layers: list[int]) -> list[Case]:
    """All parts of a 12-layer model at the first rank, and the stack of layers for each number of layers, always in four groups."""
    if not Path("/proc/self/clear_refs").exists():
        raise InputError("benchmark memory needs Linux: it reads the memory of processes from /proc")
    places = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    all_systems = ("stock", "compact", "fast")
    chosen = {}
    for device, width in product(places, widths):
        for part in PARTS:
            shape = Shape(width, 12, group_sizes[0], ranks[0], bare=part == "layers")
            chosen[part, shape, device] = Case(part, shape, device, all_systems if part != "training" else all_systems[:2])
        for rank, count in product(ranks, layers):
            shape = Shape(width, count, count // GROUPS, rank, bare=True)
            chosen.setdefault(("layers", shape, device), Case("layers", shape, device))
    return list(chosen.values())


def measure(case: Case, repeats: int) -> list[dict]:
    """One row of results per residual system, with ratios of medians to stock; measurements of the systems alternate."""
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = _checkpoints(case, Path(folder))
        figures: dict[str, list[dict]] = {name: [] for name in case.systems}
        for _ in range(repeats):
            for name in case.systems:
                figures[name].append(_footprint(case, paths[name]))
        sizes = {name: paths[name].stat().st_size for name in case.systems}
    stock = _summary(figures["stock"])
    rows = []
    for name in case.systems[1:]:
        summary = _summary(figures[name])
        row = {"system": name, "seed": 1, **case.row(), **summary, **{f"stock_{key}": value for key, value in stock.items()}}
        row |= {f"{key}_ratio": round(summary[key] / stock[key], 4) for key in summary}
        spread = [one["steady_bytes"] / other["steady_bytes"] for one, other in zip(figures[name], figures["stock"])]
        row |= {"ratio_low": round(min(spread), 4), "ratio_high": round(max(spread), 4), "repeats": repeats}
        row |= {"file_ratio": round(sizes[name] / sizes["stock"], 4)}
        rows.append(row)
    return rows


def _summary(figures: list[dict]) -> dict:
    return {key: round(median(one[key] for one in figures), 4) for key in figures[0]}


def _checkpoints(case: Case, folder: Path) -> dict[str, Path]:
    """A fairseq checkpoint for each system without optimizer state; only of the encoder if the case measures nothing else."""
    paths = {}
    stock, residual = build_pair(case.shape)
    for name in case.systems:
        model = stock if name == "stock" else residual
        part = model.encoder if case.part in ("layers", "encoder") else model
        paths[name] = folder / f"{name}.pt"
        torch.save({"args": case.shape.flags(name), "model": part.state_dict()}, paths[name])
    return paths


def _footprint(case: Case, path: Path) -> dict:
    request = {
        "part": case.part,
        "checkpoint": str(path),
        "device": case.device,
        "frames": SECONDS * FRAMES_PER_SECOND,
        "threads": 1,
    }
    command = [sys.executable, "-m", "residual_st.benchmark.footprint", json.dumps(request)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])
