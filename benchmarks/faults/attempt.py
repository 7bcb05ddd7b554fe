"""Run one command on one file in a monitored process."""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from residual_st.cli import main as residual_st

SECONDS = 60
MEMORY = 2 * 2**30  # bytes
_EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect")


def attempt(work: Path, make: Callable[[Path], object], command: list[str]) -> dict:
    """Write the file, run the command on it, and return how it ended."""
    folder = work / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    make(folder / "file")
    arguments = [part.replace("{file}", str(folder / "file")).replace("{out}", str(folder / "out")) for part in command]
    start = time.monotonic()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        report = attacked(arguments, folder)
        with os.fdopen(writer, "w") as pipe:
            json.dump(report, pipe)
        os._exit(0)
    os.close(writer)
    hung = waited(child)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    report = json.loads(text) if text else {"status": None, "message": "", "events": [], "bytes": 0}
    faults = []
    if hung:
        faults.append("hang")
    elif not text:
        faults.append("crash")
    elif report["status"] not in (0, 2):
        faults.append("traceback")
    elif report["status"] == 2 and len(report["message"].strip().splitlines()) != 1:
        faults.append("not one line")
    exploded = any(Path(place, "exploded").exists() for place in (folder, work, "."))
    faults += ["other files or programs"] if report["events"] or exploded else []
    faults += ["memory"] if report["bytes"] > MEMORY else []
    return {**report, "seconds": round(time.monotonic() - start, 2), "fault": ", ".join(faults)}


def waited(child: int) -> bool:
    """Wait for a process. Returns whether it was killed after `SECONDS`."""
    end = time.monotonic() + SECONDS
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.005)
    return False


def attacked(arguments: list[str], folder: Path) -> dict:
    """Run a command in this process, which must not be used afterwards."""
    events = []

    def watch(event: str, details: tuple) -> None:
        is_allowed = event == "subprocess.Popen" and details[0] in (
            "git",
            sys.executable,
        )  # a row's commit, a benchmark's processes
        if event in _EVENTS and not is_allowed:
            events.append(f"{event} {details!r}"[:200])
        if event == "open" and isinstance(details[0], (str, bytes)) and isinstance(details[2], int) and details[2] & 3:
            path = os.path.abspath(os.fsdecode(details[0]))
            if not path.startswith((str(folder), "/dev/", "/proc/", "/tmp/tmp", "/tmp/torch")):
                events.append(f"open {path}")

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak()
    limit = MEMORY + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (2 * limit, 2 * limit))
    out, err = io.StringIO(), io.StringIO()
    sys.addaudithook(watch)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = residual_st(arguments)
        except SystemExit as end:
            status = end.code
        except BaseException:
            status = "".join(traceback.format_exc()[-1500:])
    message = err.getvalue() if status == 2 else str(status)
    return {"status": status if status in (0, 2) else 1, "message": message[-1500:], "events": events[:5], "bytes": peak() - before}


def peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
