"""Commands read checkpoints of other fairseq versions, forks and tools."""

import json
import os
from argparse import Namespace
from enum import Enum

import numpy as np
import pytest
import torch
from conftest import same_weights, tiny_flags, tiny_model
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from residual_st.cli import main
from residual_st.compat import drop_fused_copies
from residual_st.errors import InputError
from residual_st.fairseq.checkpoints import load_checkpoint, read_checkpoint
from residual_st.fairseq.standalone import load_model

DENSE = "s2t_transformer_s"


class Colour(Enum):
    RED = 1


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def old_args(**options) -> Namespace:
    """Flags as in fairseq 0.10: in `args`, without the size of the dictionary and later flags."""
    flags = tiny_flags(DENSE, **options)
    for name in ("tgt_dict_size", "conv_version", "encoder_freezing_updates"):
        vars(flags).pop(name, None)
    return flags


def old_state(model, **more) -> dict:
    weights = {**model.state_dict(), "encoder.version": torch.tensor([3.0]), "decoder.version": torch.tensor([3.0])}
    weights |= {f"{part}.embed_positions._float_tensor": torch.zeros(1) for part in ("encoder", "decoder")}
    return {"args": old_args(), "model": weights, "optimizer_history": [{"num_updates": 7}], "extra_state": {"epoch": 1}, **more}


@pytest.fixture
def model():
    model = tiny_model(DENSE)
    drop_fused_copies(model.encoder.transformer_layers)
    return model


def test_checkpoint_with_only_args_and_no_dictionary_size_is_read(model, tmp_path, capsys):
    torch.save(old_state(model), tmp_path / "old.pt")
    assert main(["inspect", str(tmp_path / "old.pt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_parameters"] == sum(p.numel() for p in model.parameters())
    assert main(["compress", str(tmp_path / "old.pt"), "--output", str(tmp_path / "shared.pt")]) == 0
    assert main(["expand", str(tmp_path / "shared.pt"), "--output", str(tmp_path / "dense.pt")]) == 0
    assert tiny_model(load_pretrained_encoder_from=str(tmp_path / "old.pt")) is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_wrapped_and_averaged_checkpoints_are_read(model, tmp_path, dtype, capsys):
    weights = {f"module.{name}": value.to(dtype) for name, value in model.state_dict().items()}
    state = {"cfg": {"model": tiny_flags(DENSE)}, "args": None, "model": weights}
    torch.save({**state, "extra_state": {"ema": weights, "epoch": 3}, "last_optimizer_state": weights}, tmp_path / "a.pt")
    torch.save(state, tmp_path / "alone.pt")
    loaded = load_model(tmp_path / "a.pt")[1]
    assert same_weights(loaded.state_dict(), model.to(dtype).float().state_dict())
    for name in ("a", "alone"):
        assert main(["compress", str(tmp_path / f"{name}.pt"), "--output", str(tmp_path / f"{name}-shared.pt")]) == 0
    sizes = [(tmp_path / f"{name}-shared.pt").stat().st_size for name in ("a", "alone")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    assert main(["average", str(tmp_path / "a.pt"), "--output", str(tmp_path / "mean.pt")]) == 0
    assert "ema" not in torch.load(tmp_path / "mean.pt", weights_only=True)["extra_state"]


def foreign_state(model, bomb) -> dict:
    """A checkpoint with additional objects, as forks and users store them."""
    dictionary = Dictionary()
    dictionary.add_symbol("word")
    cfg = OmegaConf.create({"model": vars(tiny_flags(DENSE)), "common": {"seed": 3, "lists": [1, [2]]}})
    extra = {"best": np.float64(2.5), "count": np.int32(4), "colour": Colour.RED, "dictionary": dictionary, "bomb": Bomb(bomb)}
    return {"cfg": cfg, "args": None, "model": model.state_dict(), "extra_state": extra, "task_state": [dictionary, 5]}


def test_untrusted_checkpoint_is_read_without_running_code(model, tmp_path):
    torch.save(foreign_state(model, tmp_path / "exploded"), tmp_path / "foreign.pt")
    state, dropped = read_checkpoint(tmp_path / "foreign.pt")
    assert not (tmp_path / "exploded").exists()
    assert same_weights(state["model"], model.state_dict())
    assert state["extra_state"] == {"best": 2.5, "count": 4}
    assert state["cfg"]["model"] == vars(tiny_flags(DENSE))
    assert state["cfg"]["common"] == {"seed": 3, "lists": [1, [2]]}
    assert state["task_state"] == [None, 5]
    assert {"fairseq.data.dictionary.Dictionary", "posix.system", f"{__name__}.Colour"} <= set(dropped)


def test_strip_output_is_read_by_stock_fairseq_and_dropped_entries_are_listed(model, tmp_path, capsys):
    torch.save(foreign_state(model, tmp_path / "exploded"), tmp_path / "foreign.pt")
    assert main(["strip", str(tmp_path / "foreign.pt"), "--output", str(tmp_path / "clean.pt")]) == 0
    printed = capsys.readouterr().out
    assert "posix.system" in printed and "task_state" in printed
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu

    state = load_checkpoint_to_cpu(str(tmp_path / "clean.pt"))
    assert same_weights(state["model"], model.state_dict())
    assert state["cfg"].model.encoder_layers == 6
    assert not (tmp_path / "exploded").exists()
    assert main(["strip", str(tmp_path / "foreign.pt"), "--output", str(tmp_path / "clean.pt")]) == 2
    assert "clean.pt already exists" in capsys.readouterr().err
    for command in (["inspect"], ["compress", "--output", str(tmp_path / "x.pt")]):
        assert main([command[0], str(tmp_path / "foreign.pt"), *command[1:]]) == 0


def test_shared_storages_and_views_are_preserved(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    weights = {"a": base, "b": base.t(), "c": base[1:, 2:4], "empty": torch.zeros(0, 3), "flag": torch.tensor([True])}
    torch.save({"model": weights, "more": Colour.RED}, tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt")["model"]
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    loaded["a"][0, 0] = 7
    assert loaded["b"][0, 0] == 7


@pytest.mark.parametrize("protocol", [2, 4])
def test_every_pickle_protocol_is_read(model, tmp_path, protocol):
    torch.save(foreign_state(model, tmp_path / "exploded"), tmp_path / "a.pt", pickle_protocol=protocol)
    assert same_weights(load_checkpoint(tmp_path / "a.pt")["model"], model.state_dict())


def test_truncated_file_is_refused(model, tmp_path):
    torch.save(foreign_state(model, tmp_path / "exploded"), tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="a.pt cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "a.pt")


def test_flags_that_build_no_model_are_refused(model, tmp_path, capsys):
    flags = tiny_flags(DENSE)
    flags.encoder_attention_heads = 5
    torch.save({"cfg": {"model": flags}, "model": model.state_dict()}, tmp_path / "a.pt")
    assert main(["inspect", str(tmp_path / "a.pt")]) == 2
    assert "no model can be built from the flags in" in capsys.readouterr().err
