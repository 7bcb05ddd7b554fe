"""Rows of results, one JSON object per line, with their provenance."""

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from residual_st.errors import InputError


def provenance() -> dict:
    """Versions, machine and, in a checkout, the commit, for a row of results."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        commit = ""
    torch = sys.modules.get("torch")  # not imported here, so that measurements without torch stay without it
    threads = f", {torch.get_num_threads()} threads" if torch else ""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch and torch.cuda.is_available() else {}
    return {
        "machine": f"{cpu_name()}{threads}",
        **gpu,
        "python": platform.python_version(),
        **{name.replace("-", "_"): _version(name) for name in ("torch", "onnxruntime", "residual-st")},
        "commit": commit,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def append(path: str | Path, row: dict) -> None:
    """Append one JSON line; an incomplete last line, left by a killed run, is replaced."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        written = path.read_bytes()
        file.truncate(written.rfind(b"\n") + 1)
        file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")


def read(path: str | Path) -> list[dict]:
    """All rows of a file; none if it does not exist. An incomplete last line is ignored.

    Raises:
        InputError: for a line that is not a JSON object.
    """
    if not Path(path).exists():
        return []
    rows = []
    whole = Path(path).read_bytes().rpartition(b"\n")[0]
    for number, line in enumerate(whole.decode(errors="replace").split("\n") if whole else [], start=1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}, line {number} is not a row of results: {line[:80]!r}") from error
    return rows


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
