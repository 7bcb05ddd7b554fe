"""Alternatives to exported models: the dense encoder in torch, fp32 and int8, compared with exported ones in alternation.

    python benchmarks/device_rivals.py [--repeats N]

`torch, int8` is torch's dynamic quantisation, `torchao` that of the package torchao if installed (eager, 8-bit inputs and
weights). Both quantise the feed-forward matrices only, since fairseq's attention reads its weights without calling the layers.
CTranslate2 has no converter for fairseq's s2t_transformer. Random weights, size `_s`, one thread. Rows go to
results/device_rivals.jsonl, with ratios to the dense model in torch, fp32. All times include the features.
"""

import argparse
import copy
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from device import SECONDS, WIDTHS, folders, models
from torch import nn

from residual_st.benchmark import results
from residual_st.benchmark.timing import alternate, ratios_to
from residual_st.fairseq.model_input import ModelInput
from residual_st.runtime.folder import ENCODER
from residual_st.runtime.model import open_session

RESULTS = Path(__file__).parent / "results" / "device_rivals.jsonl"
RATE = 16_000


def torch_encoders(dense: nn.Module) -> dict[str, nn.Module]:
    encoders = {"torch, dense, fp32": dense.encoder.eval()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that torchao will replace it
        names = {name for name, _ in dense.encoder.named_modules() if name.endswith(("fc1", "fc2"))}
        encoders["torch, dense, int8"] = torch.ao.quantization.quantize_dynamic(copy.deepcopy(dense.encoder), names)
        try:
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
        except ImportError:
            return encoders
        encoders["torchao, dense, int8"] = copy.deepcopy(dense.encoder)
        quantize_(
            encoders["torchao, dense, int8"],
            Int8DynamicActivationInt8WeightConfig(),
            filter_fn=lambda module, name: isinstance(module, nn.Linear) and name in names,
        )
    return encoders


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    width = WIDTHS["s"]
    dense = next(model for name, model, _ in models(width) if name == "dense")
    encoders = torch_encoders(dense)
    with tempfile.TemporaryDirectory() as work:
        made = {name: folder for name, folder in folders(width, Path(work)).items() if "decoder" not in name}
        sessions = {name: open_session(folder / ENCODER, 1) for name, folder in made.items()}
    for seconds in SECONDS:
        samples = (0.1 * np.random.default_rng(1).standard_normal(int(seconds * RATE))).astype(np.float32)

        def in_torch(encoder, samples=samples):
            frames = ModelInput().features(samples)
            encoder(frames[None], torch.tensor([len(frames)]))

        def in_onnxruntime(session, samples=samples):
            session.run(None, {"samples": samples[None], "lengths": np.array([len(samples)])})

        systems = {name: lambda encoder=encoder: in_torch(encoder) for name, encoder in encoders.items()}
        systems |= {name: lambda session=session: in_onnxruntime(session) for name, session in sessions.items()}
        times = alternate(systems, args.repeats, lambda: None)
        for name, row in ratios_to("torch, dense, fp32", times).items():
            case = {"benchmark": "device_rivals", "system": name, "seconds": seconds, "threads": 1, "seed": 1}
            results.append(args.output, {**case, **row, **results.provenance()})


if __name__ == "__main__":
    main()
