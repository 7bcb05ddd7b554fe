"""One process that loads a model and reports the memory that it took: `python -m residual_st.benchmark.footprint JSON`.

The process is as a user's would be, and fresh, because memory that another model has used and given back cannot be told from memory
in use. What imports and a first small run take is measured before and subtracted.
"""

import ctypes
import gc
import json
import sys
import time
from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor, nn

from residual_st.benchmark.systems import BINS, Shape, build_residual
from residual_st.checkpoints import load_checkpoint
from residual_st.models.standalone import build_encoder, build_model

PARTS = ("layers", "encoder", "model", "training")


def main() -> int:
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    device = request["device"]
    tiny = build_residual(Shape(64, 3, 3, 2)).to(device)
    _train(tiny)
    _encode(tiny.eval().encoder, torch.randn(1, 50, BINS, device=device))
    del tiny
    meter = Meter(device)
    start, seconds = time.perf_counter(), {}
    if request["part"] == "training":
        kept = _load(request["checkpoint"], build_model).to(device)
        for _ in range(2):
            _train(kept)
    else:
        kept, seconds = _translate(request, start)
    figures = {**meter.read(), **seconds}
    del kept
    print(json.dumps(figures))
    return 0


class Meter:
    """Memory of this process, and bytes it read, from now on."""

    def __init__(self, device: str):
        self.on_gpu = device == "cuda"
        self.before = self._settled()
        self.bytes_read = _proc("io", "rchar")
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here

    def read(self) -> dict:
        peak = torch.cuda.max_memory_allocated() if self.on_gpu else _proc("status", "VmHWM") * 1024
        return {
            "steady_bytes": self._settled() - self.before,
            "peak_bytes": peak - self.before,
            "bytes_read": _proc("io", "rchar") - self.bytes_read,
        }

    def _settled(self) -> int:
        """Bytes in use when nothing runs, with what was freed given back to the system."""
        gc.collect()
        if self.on_gpu:
            return torch.cuda.memory_allocated()
        ctypes.CDLL(None).malloc_trim(0)
        return _proc("status", "VmRSS") * 1024


def _proc(file: str, key: str) -> int:
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _load(path: str, build) -> nn.Module:
    """As fairseq does it: the file, a new model, and the one's weights copied into the other."""
    state = load_checkpoint(path)
    model = build(Namespace(**vars(state["args"])))
    model.load_state_dict(state["model"])
    return model


def _translate(request: dict, start: float) -> tuple[nn.Module, dict]:
    """Load, prepare for translation and encode. Returns what stays in memory, and how long each took since the start."""
    device, whole = request["device"], request["part"] == "model"
    model = _load(request["checkpoint"], build_model if whole else build_encoder).to(device).eval()
    encoder = model.encoder if whole else model
    if hasattr(encoder, "prepare_for_inference_"):
        encoder.prepare_for_inference_()
    loaded = time.perf_counter() - start
    output = _encode(encoder, torch.randn(1, request["frames"], BINS, device=device))
    float(output.sum())  # waits for a GPU
    return model, {"seconds_to_load": loaded, "seconds_to_first_output": time.perf_counter() - start}


def _encode(encoder: nn.Module, frames: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder(frames, torch.tensor([frames.size(1)], device=frames.device))["encoder_out"][0]


def _train(model: nn.Module) -> None:
    """An update on an utterance so short that what its activations take does not count."""
    device = next(model.parameters()).device
    if not hasattr(model, "optimizer"):
        model.optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model.optimizer.zero_grad()
    logits, _ = model.train()(
        torch.randn(1, 40, BINS, device=device), torch.tensor([40], device=device), torch.tensor([[4, 5]], device=device)
    )
    logits.square().mean().backward()
    model.optimizer.step()


if __name__ == "__main__":
    sys.exit(main())
