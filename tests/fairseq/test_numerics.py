"""Half precision, extreme learning rates and NaN input behave as with the stock model; runs are deterministic."""

import hashlib
import shutil

import pytest
import torch
from conftest import cli, same_weights

DENSE_FORM = {"encoder_group_size": 1, "encoder_residual_rank": 0, "no_encoder_residual_diagonal": True}
SETTINGS = {
    "bf16": {"bf16": True},
    "memory-efficient bf16": {"memory_efficient_bf16": True},
    "fp16": {"fp16": True, "fp16_init_scale": 4},
    "learning rate 10,000": {"lr": 1e4, "warmup_updates": 1},
    "learning rate 0": {"lr": 0.0},
    "gradients clipped to 0": {"clip_norm": 1e-9},
    "gradients clipped": {"clip_norm": 0.5},
    "several batches per update": {"update_freq": 3},
}


def outcome(train, *arguments, **options):
    """The losses, or the class of the error that stops the run."""
    try:
        return train(*arguments, **options)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("name", SETTINGS)
def test_runs_end_as_those_of_the_stock_model(fairseq_train, data, tmp_path, name):
    options = {"max_update": 4, **SETTINGS[name]}
    stock = outcome(fairseq_train, data, tmp_path / "stock", arch="s2t_transformer_s", **options)
    plain = outcome(fairseq_train, data, tmp_path / "plain", **DENSE_FORM, **options)
    assert plain == stock or str(plain) == str(stock)  # NaN differs from itself
    shared = outcome(fairseq_train, data, tmp_path / "shared", encoder_residual_rank=4, **options)
    if not (name == "learning rate 10,000" and isinstance(shared, type)):  # either model may overflow first
        assert (shared is stock) if isinstance(stock, type) else (len(shared) == len(stock))


@pytest.fixture
def with_nan(data, tmp_path):
    """The corpus with NaN features in one training sentence."""
    import numpy as np

    folder = tmp_path / "nan"
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("data"))
    header, first, *lines = (folder / "train_st.tsv").read_text().splitlines()
    fields = dict(zip(header.split("\t"), first.split("\t")))
    np.save(tmp_path / "nan.npy", np.full((int(fields["n_frames"]), 80), np.nan, np.float32))
    fields["audio"] = str(tmp_path / "nan.npy")
    (folder / "train_st.tsv").write_text("\n".join([header, "\t".join(fields.values()), *lines]) + "\n")
    return folder


@pytest.mark.filterwarnings("ignore")
def test_nan_features_stop_the_run_as_with_the_stock_model(fairseq_train, with_nan, tmp_path):
    options = {"max_epoch": 1}
    stock = outcome(fairseq_train, with_nan, tmp_path / "stock", arch="s2t_transformer_s", **options)
    assert outcome(fairseq_train, with_nan, tmp_path / "plain", **DENSE_FORM, **options) is stock
    assert outcome(fairseq_train, with_nan, tmp_path / "shared", **options) is stock
    assert stock is FloatingPointError
    assert not list((tmp_path / "shared").glob("checkpoint*.pt"))


def test_equal_seeds_give_equal_checkpoints(fairseq_train, data, tmp_path):
    """Equal weights and optimizer states. Checkpoints also contain times, which differ."""
    options = {"max_update": 6, "criterion": "label_smoothed_cross_entropy_with_residual", "config_yaml": "config_st.yaml"}
    for name in ("one", "two"):
        fairseq_train(data, tmp_path / name, num_workers=1, **options)
    states = [torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True) for name in ("one", "two")]
    assert same_weights(states[0]["model"], states[1]["model"])
    moments = [state["last_optimizer_state"]["state"] for state in states]
    for key in moments[0]:
        assert all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(moments[1][key][name])) for name, value in moments[0][key].items()
        )


def test_commands_are_byte_deterministic(shared_checkpoint, data, tmp_path):
    """For equal file names, which torch stores in the file."""
    digests = []
    for run in ("one", "two"):
        folder = tmp_path / run
        folder.mkdir()
        cli("average", shared_checkpoint, "--output", folder / "mean.pt")
        cli("expand", shared_checkpoint, "--output", folder / "dense.pt")
        cli("compress", tmp_path / "one" / "dense.pt", "--output", folder / "shared.pt", "--group-size", 2)
        cli("export", shared_checkpoint, "--data", data, "--output", folder / "device", "--precision", "int8")
        files = [file for file in folder.rglob("*") if file.is_file()]
        digests.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert len(digests[0]) > 6 and digests[0] == digests[1]
