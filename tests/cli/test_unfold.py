"""`unfold`: from a dense encoder of few layers to a residual one of K times as many."""

import pytest
import torch
from conftest import TINY, cli, run
from test_compress import DENSE, asr, save  # noqa: F401
from test_end_to_end import BIN

from residual_st.fairseq.conversion import read_model

SMALL = {"encoder_layers": 2}


def test_each_layer_becomes_k_smaller_steps(tmp_path, batch):
    """To the first order in what layers add to their input, the unfolded encoder computes what the dense one does."""
    path = save(tmp_path / "dense.pt", **SMALL)
    state = torch.load(path, weights_only=True)
    for name in state["model"]:
        if "out_proj" in name or "fc2" in name:
            state["model"][name] *= 0.01
    torch.save(state, path)
    cli("unfold", path, "--output", tmp_path / "x.pt", "--residual-rank", "3")
    dense, unfolded = read_model(path, residual=False)[1], read_model(tmp_path / "x.pt", residual=True)[1]
    assert len(unfolded.encoder.transformer_layers) == 6
    assert unfolded.encoder.shared_weights.plan.groups == (0, 0, 0, 1, 1, 1)
    assert unfolded.encoder.transformer_layers[0].fc1.rank == 3
    states = {}
    for name, model in (("dense", dense), ("unfolded", unfolded)):
        states[name] = model.encoder(batch["src_tokens"], batch["src_lengths"])["encoder_out"][0].detach()
    bare = dense
    bare.encoder.transformer_layers = torch.nn.ModuleList()
    without = bare.encoder(batch["src_tokens"], batch["src_lengths"])["encoder_out"][0].detach()
    assert (states["unfolded"] - states["dense"]).norm() < 0.05 * (states["dense"] - without).norm()


def test_training_goes_on(data, asr):  # noqa: F811
    cli("unfold", asr / "dense.pt", "--output", asr / "unfolded.pt", "--group-size", "2")
    overrides = ["finetune-from-model=unfolded.pt", "save-dir=on", "max-update=3"]
    run(BIN / "residual-st", "train", "asr.yaml", *overrides, cwd=asr)
    _, model = read_model(asr / "on" / "checkpoint_last.pt", residual=True)
    assert len(model.encoder.transformer_layers) == 2 * TINY["encoder_layers"]
    assert any(layer.fc1.up.any() for layer in model.encoder.transformer_layers)


@pytest.mark.parametrize(
    ("arch", "flags", "message"),
    [
        ("s2t_residual_transformer_s", [], "is a residual checkpoint already"),
        (DENSE, ["--group-size", "1"], "group size 1 unfolds nothing; give 2 or more"),
        (DENSE, ["--residual-rank", "40"], "residual rank 40 does not fit"),
        (DENSE, ["--residual-rank", "1,2"], "names 2 layers, but the stack has 18"),
        (DENSE, ["--residual-rank", "=4"], "residual rank =4 keeps matrices alone, and unfolding shares them all"),
    ],
)
def test_refusals(tmp_path, arch, flags, message):
    path = save(tmp_path / "given.pt", arch)
    result = cli("unfold", path, "--output", tmp_path / "x.pt", *flags, check=False)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "x.pt").exists()
