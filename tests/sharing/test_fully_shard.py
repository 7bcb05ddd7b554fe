"""FSDP2 (`fully_shard`) on a stack with shared layers, without fairseq."""

import torch
import torch.distributed
import torch.multiprocessing
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from residual_st.sharing import form_of, share_layers


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(4))
        self.shared_weights = share_layers(self.layers, form_of(self.layers, group_size=2, rank=3))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def train(rank: int, folder: str) -> None:
    """Train a whole and a sharded model, each process on half of a batch, for five updates; write the largest difference."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    whole, sharded = Stack(), Stack()
    mesh = init_device_mesh("cpu", (2,))
    for layer in sharded.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    pieces = sum(parameter.to_local().numel() for parameter in sharded.parameters())
    assert pieces <= 0.6 * sum(parameter.numel() for parameter in whole.parameters())
    optimizers = [torch.optim.Adam(model.parameters(), 1e-2) for model in (whole, sharded)]
    for step in range(5):
        x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(step))
        losses = whole(x).square().mean(), sharded(x[rank : rank + 1]).square().mean()
        for optimizer, loss in zip(optimizers, losses):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    trained = {name: parameter.full_tensor() for name, parameter in sharded.named_parameters()}
    difference = max((parameter - trained[name]).abs().max().item() for name, parameter in whole.named_parameters())
    moved = max((parameter - start).abs().max().item() for parameter, start in zip(whole.parameters(), Stack().parameters()))
    assert difference < 1e-5 < moved, (difference, moved)
    torch.distributed.destroy_process_group()


def test_sharded_model_trains_like_the_whole(tmp_path):
    torch.multiprocessing.spawn(train, (str(tmp_path),), nprocs=2)
