"""The cost of an encoder that runs chunk by chunk, compared with one that recomputes its window at every chunk.

    python benchmarks/streaming_encoder.py [--hours H] [--left-chunks 31 8] [--systems dense "K=3, R=16"] [--precisions fp32 int8]

Models have random weights, size `_s`, and one thread. Both get a chunk of new sound per call, in alternation: one encodes it with
the cached keys and values of earlier chunks; the other encodes the whole window of 20 s. Both times include features. Then a
separate process, `streaming_listener.py`, transcribes that many hours. Seconds are process time. Rows go to
results/streaming_encoder.jsonl.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import torch

from residual_st.benchmark import results
from residual_st.benchmark.systems import Shape, build_pair
from residual_st.benchmark.timing import alternate, ratios_to
from residual_st.export import PRECISIONS
from residual_st.export.encoder import encoder_graph
from residual_st.export.fairseq_input import filterbank_of
from residual_st.export.fairseq_model import encoder_parts
from residual_st.export.streaming import streaming_form, streaming_graph
from residual_st.fairseq.kinds import EncoderParts
from residual_st.fairseq.model_input import ModelInput
from residual_st.runtime.model import open_session
from residual_st.runtime.streaming import Streaming, StreamingEncoder

RESULTS = Path(__file__).parent / "results" / "streaming_encoder.jsonl"
RATE = 16_000
CHUNK_FRAMES = 16  # 0.64 s
WINDOW = 20.0  # seconds
LONGEST = 3900.0  # seconds, so that no stream restarts within the hour
SYSTEMS = ("dense", "K=3, R=16")
SHAPE = Shape(width=256, layers=12, group_size=3, rank=16)
LISTENER = Path(__file__).with_name("streaming_listener.py")


def write_graphs(encoder: EncoderParts, precision: str, left: int, folder: Path) -> Streaming:
    """Write `chunked.onnx`, `whole.onnx` and the form of the first as `form.json`, which is returned."""
    filterbank = filterbank_of(ModelInput(transforms=()))
    form = streaming_form(encoder, filterbank, CHUNK_FRAMES, left, LONGEST)
    onnx.save(streaming_graph(encoder, filterbank, form, precision), folder / "chunked.onnx")
    onnx.save(encoder_graph(encoder, filterbank, precision), folder / "whole.onnx")
    (folder / "form.json").write_text(json.dumps(asdict(form)), encoding="utf-8")
    return form


def noise(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal(int(seconds * RATE))).astype(np.float32)


def compare(folder: Path, form: Streaming, repeats: int) -> dict:
    """Seconds per chunk of both encoders, and the speedup of the chunked one."""
    stream = StreamingEncoder(open_session(folder / "chunked.onnx", 1), form)
    whole, samples = open_session(folder / "whole.onnx", 1), noise(WINDOW)
    stream.feed(samples)  # fills its caches
    chunk = samples[: form.chunk_frames * form.frame_samples]
    functions = {
        "chunked": lambda: stream.feed(chunk),
        "recomputed": lambda: whole.run(None, {"samples": samples[None], "lengths": np.array([len(samples)])}),
    }
    figures = ratios_to("chunked", alternate(functions, repeats, lambda: None, time.process_time))["recomputed"]
    return {"recomputed_seconds": figures.pop("median_seconds"), **figures}


def measure(args: argparse.Namespace) -> Iterator[dict]:
    torch.manual_seed(1)
    models = dict(zip(SYSTEMS, build_pair(SHAPE)))
    for left, system, precision in product(args.left_chunks, args.systems, args.precisions):
        with tempfile.TemporaryDirectory() as work:
            form = write_graphs(encoder_parts(models[system].eval()), precision, left, Path(work))
            row = {"benchmark": "streaming_encoder", "system": system, "seed": 1, "precision": precision, "threads": 1}
            row |= {"chunk_frames": form.chunk_frames, "left_chunks": left, "window_seconds": WINDOW}
            row |= compare(Path(work), form, args.repeats)
            command = [sys.executable, LISTENER, work, str(args.hours)]
            row |= json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        yield row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("--left-chunks", type=int, nargs="+", default=[31, 8])  # the first context is as long as the window
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"], choices=PRECISIONS)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    for row in measure(args):
        results.append(args.output, {**row, **results.provenance()})
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
