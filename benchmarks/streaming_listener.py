"""Transcribe a stream for hours in one process without torch: `python benchmarks/streaming_listener.py FOLDER HOURS`.

FOLDER contains `chunked.onnx` and its form, `form.json`. Prints as JSON the memory of the graph and the stream after one minute and
at the end, and the seconds per chunk in the first and the last minute.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from residual_st.benchmark.process_memory import ProcessMemory
from residual_st.runtime.model import open_session
from residual_st.runtime.streaming import Streaming, StreamingEncoder

RATE = 16_000


def main() -> int:
    folder, hours = Path(sys.argv[1]), float(sys.argv[2])
    form, memory = Streaming(**json.loads((folder / "form.json").read_text(encoding="utf-8"))), ProcessMemory()
    stream = StreamingEncoder(open_session(folder / "chunked.onnx", 1), form)
    chunk = (0.1 * np.random.default_rng(1).standard_normal(form.chunk_frames * form.frame_samples)).astype(np.float32)
    chunks_per_minute = round(60 * RATE / len(chunk))
    calls = round(60 * hours) * chunks_per_minute
    seconds, held = [], []
    for number in range(1, calls + 1):
        start = time.process_time()
        stream.feed(chunk)
        seconds.append(time.process_time() - start)
        if number in (chunks_per_minute, calls):
            held.append(memory.read()["steady_bytes"])
    figures = {
        "hours": hours,
        "first_minute_bytes": held[0],
        "last_minute_bytes": held[-1],
        "memory_ratio": round(held[-1] / held[0], 4),
        "first_minute_chunk_seconds": round(median(seconds[:chunks_per_minute]), 6),
        "last_minute_chunk_seconds": round(median(seconds[-chunks_per_minute:]), 6),
        "seconds_per_second": round(sum(seconds) * RATE / (calls * len(chunk)), 5),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
