"""Comparison of exported models: bytes, memory, load time, latency of the encoder, and speed from audio to text."""

import json
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from residual_st.benchmark.timing import take_turns
from residual_st.errors import InputError
from residual_st.progress import progress
from residual_st.runtime.folder import ENCODER, read_folder

SECONDS = (0.5, 1, 5, 20)  # lengths of audio, unless a model takes less
LEAST_SECONDS = 0.1  # minimum length of a measurement; shorter ones repeat the call


class Process:
    """A model in its own process, which waits for requests.

    Attributes:
        ready: measurements from loading.
    """

    def __init__(self, folder: Path, threads: int):
        self._command = [sys.executable, "-m", "residual_st.benchmark.device_process", str(folder), str(threads)]
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self._answer()
        if "error" in self.ready:
            raise InputError(self.ready["error"])

    def ask(self, *request) -> float:
        """Send a request and return its answer. Raises InputError if the model refuses the input."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._answer()
        if isinstance(answer, dict):
            raise InputError(answer["error"])
        return answer

    def _answer(self):
        for line in self._process.stdout or ():
            return json.loads(line)
        raise RuntimeError(f"{shlex.join(self._command)} ended with status {self._process.wait()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._process:  # closes its pipes and waits for its end
            pass


def lengths(folders: dict[str, Path], seconds: list[float] | None) -> list[float]:
    """Lengths of audio in seconds that every model takes; `SECONDS` if none are given.

    Raises:
        InputError: if a folder is not an exported model, or a length is not above 0 or too long for a model.
    """
    limits = {name: read_folder(folder).longest_seconds for name, folder in folders.items()}
    name = min(limits, key=limits.__getitem__)
    for length in seconds or []:
        if not 0 < length <= limits[name]:
            raise InputError(f"--seconds {length:g} must be above 0 and at most {limits[name]:g}, the limit of {name}")
    return seconds or sorted({min(length, limits[name]) for length in SECONDS})


def measure(folders: dict[str, Path], threads: int, seconds: list[float], repeats: int, audio: Path | None) -> list[dict]:
    """One row per model. Ratios are relative to the first model, within each repeat: median, minimum and maximum.

    Args:
        folders: name -> exported folder.
        threads: number of threads per process.
        seconds: lengths of audio in seconds, for the encoder's latency.
        repeats: number of repeats per measurement. Every other repeat measures the models in reverse order.
        audio: a recording to translate, to measure the speed from audio to text.

    Raises:
        InputError: if a folder is not an exported model, or memory cannot be measured on this system.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise InputError("benchmark device needs Linux: it reads the memory of processes from /proc")
    descriptions = {name: read_folder(folder).description for name, folder in folders.items()}
    rows = {
        name: {
            "system": name,
            "precision": description["precision"],
            "threads": threads,
            "encoder_file_bytes": sum(file["bytes"] for name, file in description["files"].items() if name.startswith(ENCODER)),
            "file_bytes": sum(file["bytes"] for file in description["files"].values()),
        }
        for name, description in descriptions.items()
    }
    _load(folders, threads, rows, repeats)
    with ExitStack() as stack:
        processes = {name: stack.enter_context(Process(folder, threads)) for name, folder in folders.items()}
        for length in progress(seconds, desc=f"latency, threads={threads}", unit="length"):
            calls = {}
            for name, process in processes.items():
                process.ask("encode", length, 1)
                calls[name] = max(1, round(LEAST_SECONDS / process.ask("encode", length, 1)))

            def encode(name: str, length=length, calls=calls) -> float:
                return processes[name].ask("encode", length, calls[name])

            _add(rows, f"latency_{length:g}s", take_turns(processes, repeats, encode))
        if audio is not None:
            speeds = take_turns(processes, max(1, repeats // 3), lambda name: processes[name].ask("translate", str(audio)))
            _add(rows, "times_real_time", speeds)
    return list(rows.values())


def _load(folders: dict[str, Path], threads: int, rows: dict[str, dict], repeats: int) -> None:
    """Measure memory and load time in processes that do nothing else."""
    ready: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    for _ in progress(range(max(1, repeats // 2)), desc=f"memory, threads={threads}", unit="round"):
        for name, folder in folders.items():
            with Process(folder, threads) as process:
                ready[name].append(process.ready)
    for figure in next(iter(ready.values()))[0]:
        _add(rows, figure, {name: [one[figure] for one in each] for name, each in ready.items()})


def _add(rows: dict[str, dict], figure: str, values: dict[str, list[float]]) -> None:
    base = next(iter(values.values()))
    for name, measured in values.items():
        ratios = [one / other for one, other in zip(measured, base)]
        rows[name] |= {
            figure: round(median(measured), 6),
            f"{figure}_ratio": [round(value, 4) for value in (median(ratios), min(ratios), max(ratios))],
        }
