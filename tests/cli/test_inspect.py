import json
import tracemalloc

import pytest
import torch
from conftest import tiny_flags, tiny_model

from residual_st.cli import main
from residual_st.sharing import ResidualLinear

PAPER = "--arch s2t_residual_transformer --encoder-layers 18 --encoder-embed-dim 512 --encoder-ffn-embed-dim 2048".split()
PAPER += "--encoder-attention-heads 8 --encoder-group-size 3 --json".split()


def inspect(capsys, *arguments):
    assert main(["inspect", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("rank", "fraction"), [(2, 0.340), (16, 0.381)])
def test_weight_fractions_match_the_paper(capsys, rank, fraction):
    """arXiv 2310.02489: 34.0 % and 38.1 % of 56.6 M."""
    figures = inspect(capsys, *PAPER, "--encoder-residual-rank", str(rank))
    assert figures["encoder_weight_fraction"] == fraction
    assert figures["dense_encoder_matrix_parameters"] == 56_623_104
    assert figures["groups"] == [layer // 3 for layer in range(18)]
    assert sum(part["parameters"] for part in figures["parts"].values()) == figures["total_parameters"]


def test_architecture_is_inspected_without_allocating_weights(capsys):
    tracemalloc.start()
    figures = inspect(capsys, *PAPER)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert figures["total_parameters"] > 40e6


def test_encoder_of_one_layer_is_counted(tmp_path, capsys):
    """The two convolutions of the subsampler do not count as layers."""
    options = {"encoder_layers": 1, "tgt_dict_size": 20}
    state = tiny_model("s2t_transformer_s", **options).state_dict()
    torch.save({"model": state, "cfg": {"model": tiny_flags("s2t_transformer_s", **options)}}, tmp_path / "one.pt")
    assert inspect(capsys, str(tmp_path / "one.pt"), "--json")["encoder_weight_fraction"] == 1


def test_counts_match_the_built_model(capsys):
    model = tiny_model(encoder_layers=7)
    flags = "--arch s2t_residual_transformer_s --encoder-layers 7 --encoder-embed-dim 32 --encoder-ffn-embed-dim 48".split()
    flags += "--decoder-layers 1 --conv-channels 32 --vocab-size 20 --json".split()
    figures = inspect(capsys, *flags)
    assert figures["total_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert figures["encoder_parameters"] == sum(parameter.numel() for parameter in model.encoder.parameters())


def test_dense_arch_keeps_all_weights(capsys):
    figures = inspect(capsys, "--arch", "s2t_transformer_s", "--json")
    assert figures["encoder_weight_fraction"] == 1
    assert figures["group_size"] == 1
    assert figures["encoder_matrix_parameters"] == 12 * (4 * 256 * 256 + 2 * 256 * 2048)


def test_checkpoint_is_inspected_with_residual_energies(capsys, tmp_path):
    model = tiny_model()
    linears = [module for module in model.modules() if isinstance(module, ResidualLinear)]
    for index, linear in enumerate(linears):
        torch.nn.init.constant_(linear.diagonal, index)
    flags = tiny_flags(tgt_dict_size=20)
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "cfg": {"model": flags}}, path)
    figures = inspect(capsys, str(path), "--json")
    assert figures["checkpoint_bytes"] == path.stat().st_size
    assert figures["total_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    energies = figures["residual_energy"]
    assert len(energies) == 36
    expected = [(linear.diagonal.square().sum() / linear.shared_weight.square().sum()).item() for linear in linears]
    assert [row["residual_to_shared"] for row in energies] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert main(["inspect", str(path)]) == 0
    assert "encoder shared weights" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tied_embeddings_and_half_precision_count_as_stored(capsys, tmp_path, dtype):
    model = tiny_model(share_decoder_input_output_embed=True).to(dtype)
    path = tmp_path / "checkpoint.pt"
    flags = tiny_flags(tgt_dict_size=20, share_decoder_input_output_embed=True)
    torch.save({"model": model.state_dict(), "cfg": {"model": flags}}, path)
    figures = inspect(capsys, str(path), "--json")
    assert figures["total_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert sum(part["bytes"] for part in figures["parts"].values()) == figures["total_parameters"] * dtype.itemsize


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one checkpoint, one folder, or --arch NAME"),
        (["a.pt", "b.pt"], "give one checkpoint, one folder, or --arch NAME"),
        (["missing.pt"], "missing.pt does not exist"),
        (["--arch", "lstm"], "a model of --arch lstm cannot be built without its task"),
        (["--arch", "s2t_residual_transformer", "--encoder-groups", "3"], "unrecognized arguments: --encoder-groups 3"),
        (
            ["--arch", "s2t_residual_transformer_xs", "--encoder-group-size", "7"],
            "group size 7 does not fit a stack of 6 layers",
        ),
    ],
)
def test_wrong_usage_is_refused(capsys, arguments, message):
    assert main(["inspect", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
