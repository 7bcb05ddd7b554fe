"""One process with an exported model, which measures on request: `python -m residual_st.benchmark.device_process DIR THREADS`.

It writes one JSON line when it is ready, and one for each request line, `encode SECONDS CALLS` or `translate FILE`: either a result
or a message as `error`. torch is not loaded.

Memory is measured twice. `process_bytes` is added by the first session of the encoder to a process that has imported onnxruntime,
including the library's code and state, about 20 MB. `encoder_steady_bytes` and `encoder_peak_bytes` are those of a second session,
after the first is freed and the library's state exists.
"""

import json
import sys
import time

import numpy as np

from residual_st.benchmark.process_memory import ProcessMemory
from residual_st.errors import InputError, refusing
from residual_st.runtime import Translator
from residual_st.runtime.folder import ENCODER, Folder, read_folder
from residual_st.runtime.model import Model, open_session
from residual_st.runtime.streaming import StreamingEncoder

SECONDS = 1.0  # length of the audio encoded before memory is read


def main() -> int:
    path, threads = sys.argv[1], int(sys.argv[2])
    try:
        folder = read_folder(path)
        with refusing(f"the encoder of {path} cannot be run"):
            _, process, _ = _encode(folder, threads)
            session, encoder, encoder_seconds = _encode(folder, threads)
            del session
        start = time.perf_counter()
        model = Model(path, threads)
    except InputError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    ready = {
        "process_bytes": process["steady_bytes"],
        "encoder_steady_bytes": encoder["steady_bytes"],
        "encoder_peak_bytes": encoder["peak_bytes"],
        "encoder_load_seconds": encoder_seconds,
        "load_seconds": time.perf_counter() - start,
    }
    print(json.dumps(ready), flush=True)

    translator = Translator(model)
    for line in sys.stdin:
        answer: float | dict[str, str]
        try:
            answer = _measured(model, translator, *json.loads(line))
        except InputError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    return 0


def _measured(model: Model, translator: Translator, kind: str, *arguments) -> float:
    """Seconds per call of the encoder, or seconds of audio translated per second."""
    start = time.perf_counter()
    if kind == "translate":
        transcript = translator.translate(arguments[0])
        return transcript.seconds / (time.perf_counter() - start)
    length, calls = arguments
    samples = _noise(length, model.folder.sample_rate)
    start = time.perf_counter()
    for _ in range(calls):
        model.encode([samples])
    return (time.perf_counter() - start) / calls


def _encode(folder: Folder, threads: int) -> tuple[object, dict, float]:
    """The encoder's session after a first run, its memory, and its load time in seconds."""
    memory, start = ProcessMemory(), time.perf_counter()
    session = open_session(folder.path / ENCODER, threads)
    seconds = time.perf_counter() - start
    samples = _noise(SECONDS, folder.sample_rate)
    if folder.streaming:
        StreamingEncoder(session, folder.streaming).encode(samples)
    else:
        session.run(None, {"samples": samples[None], "lengths": np.array([len(samples)])})
    return session, memory.read(), seconds


def _noise(seconds: float, rate: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal(int(seconds * rate))).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
