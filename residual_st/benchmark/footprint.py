"""One process that loads a model and reports its memory: `python -m residual_st.benchmark.footprint JSON`.

The process is new, because memory freed by another model cannot be told from memory in use. The memory of imports and a first small
run is measured before and subtracted.
"""

import gc
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import TypeVar

import torch
from fairseq.models import BaseFairseqModel, FairseqEncoder
from torch import Tensor, nn

from residual_st.benchmark.process_memory import ProcessMemory
from residual_st.benchmark.systems import BINS, Shape, build_residual
from residual_st.fairseq.checkpoints import load_checkpoint
from residual_st.fairseq.standalone import build_encoder, build_model

_Model = TypeVar("_Model", bound=nn.Module)

PARTS = ("layers", "encoder", "model", "training")


def main() -> int:
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    device = request["device"]
    tiny = build_residual(Shape(64, 3, 3, 2)).to(device)
    _train(tiny, _optimizer(tiny))
    _encode(tiny.eval().encoder, torch.randn(1, 50, BINS, device=device))
    del tiny
    meter = Meter(device)
    start = time.perf_counter()
    seconds: dict[str, float] = {}
    if request["part"] == "training":
        kept = _load(request["checkpoint"], build_model).to(device)
        optimizer = _optimizer(kept)
        for _ in range(2):
            _train(kept, optimizer)
    else:
        kept, seconds = _translate(request, start)
    figures = {**meter.read(), **seconds}
    del kept
    print(json.dumps(figures))
    return 0


class Meter(ProcessMemory):
    """`ProcessMemory`, or on a GPU the memory allocated by torch."""

    def __init__(self, device: str):
        self._on_gpu = device == "cuda"
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        super().__init__()

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self._on_gpu else super()._peak()

    def _settled(self) -> int:
        gc.collect()
        return torch.cuda.memory_allocated() if self._on_gpu else super()._settled()


def _load(path: str, build: Callable[[Namespace], _Model]) -> _Model:
    """Load a model like fairseq: read the file, build a model, and copy the weights into it."""
    state = load_checkpoint(path)
    model = build(Namespace(**vars(state["args"])))
    model.load_state_dict(state["model"])
    return model


def _translate(request: dict, start: float) -> tuple[BaseFairseqModel | FairseqEncoder, dict[str, float]]:
    """Load, prepare for translation and encode. Returns the model, and the times since the start."""
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


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-4)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Train one update on an utterance so short that its activations take negligible memory."""
    device = next(model.parameters()).device
    optimizer.zero_grad()
    logits, _ = model.train()(
        torch.randn(1, 40, BINS, device=device), torch.tensor([40], device=device), torch.tensor([[4, 5]], device=device)
    )
    logits.square().mean().backward()
    optimizer.step()


if __name__ == "__main__":
    sys.exit(main())
