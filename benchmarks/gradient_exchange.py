"""Bytes that two processes exchange per update, stock against residual, for docs/scale.md.

    python benchmarks/gradient_exchange.py

Two processes train each model under torch's DistributedDataParallel over gloo on the CPU, with a communication hook that counts the
bytes of every bucket before it is reduced. Checkpoint bytes are the sizes of files with and without the optimizer state.
"""

import sys
import tempfile
from pathlib import Path

import torch
from tabulate import tabulate
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from residual_st.benchmark.results import append, provenance
from residual_st.benchmark.systems import BINS, VOCABULARY, Shape
from residual_st.fairseq.standalone import build_model

RESULTS = Path(__file__).parent / "results" / "gradient_exchange.jsonl"
# the paper's encoder at both of its ranks, with six decoder layers, and the stock small model
SHAPES = [Shape(512, 18, 3, 2), Shape(512, 18, 3, 16), Shape(256, 12, 3, 16)]


def count(rank: int, folder: str, queue) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for shape in SHAPES:
        for system in ("stock", "compact"):
            torch.manual_seed(1)
            figures = exchange(build_model(shape.flags(system)).train(), Path(folder))
            if rank == 0:
                queue.put((shape, system, figures))
    distributed.destroy_process_group()


def exchange(model: nn.Module, folder: Path) -> dict:
    sent = []

    def counted(group, bucket):
        sent.append(bucket.buffer().numel() * bucket.buffer().element_size())
        return allreduce_hook(group, bucket)

    parallel = nn.parallel.DistributedDataParallel(model)
    parallel.register_comm_hook(None, counted)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in range(2):
        sent.clear()
        optimizer.zero_grad()
        frames = torch.randn(2, 40, BINS)
        logits, _ = parallel(src_tokens=frames, src_lengths=torch.tensor([40, 40]), prev_output_tokens=torch.tensor([[4, 5]] * 2))
        logits.square().mean().backward()
        optimizer.step()
    gradients = [parameter.grad for parameter in model.parameters()]
    total = torch.stack([gradient.double().square().sum() for gradient in gradients]).sum()
    both = [torch.zeros_like(total) for _ in range(2)]
    distributed.all_gather(both, total)
    assert torch.equal(*both), "both processes hold the same gradients after the exchange"
    layers = [*model.encoder.transformer_layers.parameters(), *getattr(model.encoder, "shared_weights", nn.Module()).parameters()]
    return {
        "exchanged_bytes": sum(sent),
        "of_encoder_layers_bytes": sum(parameter.numel() * parameter.element_size() for parameter in layers),
        "optimizer_bytes": sum(value.nbytes for state in optimizer.state.values() for value in state.values()),
        "checkpoint_bytes": file_size(folder, {"model": model.state_dict()}),
        "checkpoint_with_optimizer_bytes": file_size(folder, {"model": model.state_dict(), "optimizer": optimizer.state_dict()}),
    }


def file_size(folder: Path, state: dict) -> int:
    path = folder / f"{distributed.get_rank()}.pt"
    torch.save(state, path)
    return path.stat().st_size


def main() -> int:
    figures_of = {}
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        queue = context.Queue()
        processes = [context.Process(target=count, args=(rank, folder, queue)) for rank in range(2)]
        for process in processes:
            process.start()
        for _ in range(2 * len(SHAPES)):
            shape, system, figures = queue.get()
            figures_of[shape, system] = figures
        for process in processes:
            process.join()
            if process.exitcode:
                return process.exitcode
    table = []
    for shape in SHAPES:
        stock, residual = figures_of[shape, "stock"], figures_of[shape, "compact"]
        row = {
            "system": "residual",
            "seed": 1,
            **shape.row(),
            **residual,
            **{f"stock_{key}": value for key, value in stock.items()},
        }
        append(RESULTS, {**row, "vocabulary": VOCABULARY, **provenance()})
        for key in residual:
            table.append([shape.layers, shape.width, shape.rank, key, stock[key], residual[key], residual[key] / stock[key]])
    print(tabulate(table, headers=["layers", "d", "R", "figure", "stock", "residual", "ratio"], floatfmt=".3f", intfmt=","))
    return 0


if __name__ == "__main__":
    sys.exit(main())
