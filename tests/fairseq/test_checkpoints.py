import pytest
import torch
from conftest import same_weights, tiny_flags, tiny_model

from residual_st.errors import InputError
from residual_st.fairseq.averaging import average
from residual_st.fairseq.checkpoints import first_difference, load_checkpoint, save_checkpoint
from residual_st.sharing import matrices

FULL_SIZE = {
    "encoder_layers": 12,
    "encoder_embed_dim": 256,
    "encoder_ffn_embed_dim": 2048,
    "decoder_layers": 6,
    "conv_channels": 1024,
}


def test_checkpoints_store_each_shared_weight_once(tmp_path):
    """At the size of s2t_transformer_s, before and after averaging."""
    sizes, parameters = {}, {}
    for arch in ("s2t_transformer_s", "s2t_residual_transformer_s"):
        model = tiny_model(arch, **FULL_SIZE)
        parameters[arch] = sum(parameter.numel() for parameter in model.parameters())
        path = tmp_path / f"{arch}.pt"
        save_checkpoint({"model": model.state_dict(), "cfg": {"model": tiny_flags(arch, **FULL_SIZE)}}, path)
        save_checkpoint(average([path, path]), tmp_path / f"{arch}.average.pt")
        sizes[arch] = [path.stat().st_size, (tmp_path / f"{arch}.average.pt").stat().st_size]
    dense, shared = sizes.values()
    expected = parameters["s2t_residual_transformer_s"] / parameters["s2t_transformer_s"]
    assert expected < 0.65
    for file in range(2):
        assert shared[file] / dense[file] == pytest.approx(expected, rel=0.02)


def test_loaded_checkpoint_shares_its_weights(tmp_path):
    model = tiny_model()
    save_checkpoint({"model": model.state_dict()}, tmp_path / "a.pt")
    loaded = tiny_model(seed=2)
    loaded.load_state_dict(load_checkpoint(tmp_path / "a.pt")["model"])
    used = {id(linear.shared_weight) for layer in loaded.encoder.transformer_layers for _, linear in matrices(layer)}
    assert len(used) == 12
    assert first_difference(loaded.state_dict(), model.state_dict()) is None
    assert same_weights(loaded.state_dict(), model.state_dict())


def test_file_that_is_not_a_fairseq_checkpoint_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="a.pt is not a fairseq checkpoint: it has no `model`"):
        load_checkpoint(tmp_path / "a.pt")
