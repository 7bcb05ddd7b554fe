"""Memory of a process, on Linux."""

import ctypes
import gc
from pathlib import Path


class ProcessMemory:
    """Memory of this process and bytes read, measured from construction on."""

    def __init__(self):
        self._before = self._settled()
        self._bytes_read = _proc("io", "rchar")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak

    def read(self) -> dict:
        peak = self._peak()
        return {
            "steady_bytes": self._settled() - self._before,
            "peak_bytes": peak - self._before,
            "bytes_read": _proc("io", "rchar") - self._bytes_read,
        }

    def _peak(self) -> int:
        return _proc("status", "VmHWM") * 1024

    def _settled(self) -> int:
        """Bytes in use at rest, after freed memory is returned to the system."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return _proc("status", "VmRSS") * 1024


def _proc(file: str, key: str) -> int:
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return int(values[key].removesuffix("kB"))
