"""Checkpoints of every earlier release can be loaded."""

import json
from pathlib import Path

import pytest
import torch
from conftest import cli

from residual_st.fairseq.standalone import load_model

RELEASES = sorted((Path(__file__).parent / "fixtures").iterdir())


@pytest.mark.parametrize("name", ["dense", "residual"])
@pytest.mark.parametrize("release", RELEASES, ids=lambda folder: folder.name)
def test_checkpoints_of_earlier_releases_compute_the_same(release, name, tmp_path):
    expected = torch.tensor(json.loads((release / "logits.json").read_text())[name])

    def logits(path: Path) -> torch.Tensor:
        model = load_model(path)[1]
        source = torch.randn(1, 40, 80, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return model(source, torch.tensor([40]), torch.tensor([[2, 5, 6, 7]]))[0][0, :, : expected.size(1)]

    checkpoint = release / f"{name}.pt"
    torch.testing.assert_close(logits(checkpoint), expected, rtol=1e-3, atol=1e-4)
    cli("average", checkpoint, checkpoint, "--output", tmp_path / "mean.pt")
    torch.testing.assert_close(logits(tmp_path / "mean.pt"), expected, rtol=1e-3, atol=1e-4)
    command = "expand" if name == "residual" else "compress"
    cli(
        command,
        checkpoint,
        "--output",
        tmp_path / "other.pt",
        *(["--group-size", 1, "--residual-rank", 0] if name == "dense" else []),
    )
    torch.testing.assert_close(logits(tmp_path / "other.pt"), expected, rtol=1e-3, atol=1e-4)
