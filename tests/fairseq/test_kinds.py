"""Every command on every kind of model: stock archs that share layers by flags, small, trained for three updates.

docs/kinds.md has the table of what is tested here.
"""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import USER_DIR, cli
from console import command
from fairseq import checkpoint_utils, utils
from kinds import DECODE, EMFORMER, KINDS, PRETRAINED, SPLITS, TRAIN, make_data
from torch import Tensor, nn

SHARED = ("--encoder-group-size", "2", "--encoder-residual-rank", "2")
COMPRESSED = ("--group-size", "2", "--residual-rank", "2")
# fairseq-fixed can build these only with a patch, see docs/commands.md
PATCHED = {"xm_transformer", "hubert_ctc"}


class Bench:
    """A folder with the data of all kinds and cached checkpoints and outputs."""

    def __init__(self, folder: Path):
        self.folder = folder
        make_data(folder)
        splits = (f"--{split}pref {folder}/text/{split}" for split in SPLITS)
        self.run("fairseq-preprocess", *f"-s en -t units {' '.join(splits)} --destdir {folder}/text-bin --workers 1".split())
        self.train, self.decode, self.uncalibrated = cache(self._train), cache(self._decode), cache(self._uncalibrated)

    def data(self, kind: str) -> Path:
        return self.folder / {**KINDS, **PRETRAINED}[kind].data

    def run(self, *parts, log: str = "log") -> str:
        return command(*parts, log=self.folder / log)

    def refused(self, *parts) -> str:
        """The last line of a command that must fail."""
        with pytest.raises(AssertionError):
            self.run(*parts)
        return (self.folder / "log").read_text().rstrip().splitlines()[-1]

    def training(self, kind: str, run: str, *flags, user_dir: bool = True) -> list:
        """The command that trains a model for three updates."""
        spec = {**KINDS, **PRETRAINED}[kind]
        parts = ["fairseq-train", self.data(kind), *spec.task.split(), *spec.model.split(), *TRAIN.split()]
        if spec.pretrained:
            parts += ["--w2v-path", self.train(spec.pretrained, "pretrained")]
        parts += flags
        if user_dir:
            parts += ["--user-dir", USER_DIR]
        return [*parts, "--save-dir", self.folder / "runs" / kind / run]

    def _train(self, kind: str, run: str, *flags, user_dir: bool = True) -> Path:
        training = self.training(kind, run, *flags, user_dir=user_dir)
        losses = re.findall(r'train_inner \| .*"loss": "([\d.]+)"', self.run(*training))
        (training[-1] / "losses").write_text("\n".join(losses))
        return training[-1] / "checkpoint_last.pt"

    def dense(self, kind: str) -> Path:
        """The checkpoint of the stock arch, trained by unpatched fairseq if that can build it."""
        return self.train(kind, "dense", user_dir=kind in PATCHED)

    def shared(self, kind: str) -> Path:
        return self.train(kind, "shared", *SHARED, "--save-interval-updates", "2")

    def _uncalibrated(self, kind: str) -> Path:
        small = self.folder / f"{kind} uncalibrated.pt"
        cli("compress", self.dense(kind), *COMPRESSED, "--output", small)
        return small

    def _decode(self, kind: str, checkpoint: Path, user_dir: bool = True) -> list[str]:
        """Hypotheses of the test set without scores, or the error rates of a CTC model."""
        spec = KINDS[kind]
        flags = spec.task if spec.decode == "fairseq-generate" else " ".join(spec.task.split()[:2])
        parts = [spec.decode, self.data(kind), *flags.split(), *DECODE[spec.decode].split(), "--path", checkpoint]
        output = self.run(*parts, *(["--user-dir", USER_DIR] if user_dir else []))
        if spec.decode == "fairseq-validate":
            return re.findall(r"\| (?:loss|uer|wer) [\d.]+", output)
        return sorted(re.sub(r"\t-?[\d.]+\t", "\t", line) for line in output.splitlines() if line.startswith("H-"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("kinds") / "all")


# archs with --load-pretrained-encoder-from
ENCODERS = [kind for kind in KINDS if kind.startswith(("s2t", "s2ut", "conv", "xm"))]
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_group_size_one_is_the_stock_model(bench, kind):
    flags = "--encoder-group-size 1 --encoder-residual-rank 0 --no-encoder-residual-diagonal".split()
    runs = bench.dense(kind), bench.train(kind, "group size 1", *flags)
    assert len({(run.parent / "losses").read_text() for run in runs}) == 1
    assert_same_weights(*runs)


@every_kind
def test_shared_model_trains_resumes_and_decodes(bench, kind):
    shared = bench.shared(kind)
    assert any(name.endswith("shared_weights.layer_groups") for name in weights(shared))
    resumed = bench.train(kind, "resumed", *SHARED, "--restore-file", shared.with_name("checkpoint_1_2.pt"))
    assert (resumed.parent / "losses").read_text().split() == (shared.parent / "losses").read_text().split()[2:]
    assert_same_weights(resumed, shared)
    assert len(bench.decode(kind, shared)) == 3


@every_kind
def test_checkpoints_are_averaged_and_inspected(bench, kind):
    shared, mean = bench.shared(kind), bench.folder / f"{kind} mean.pt"
    cli("average", shared.with_name("checkpoint_1_2.pt"), shared, "--output", mean)
    assert len(bench.decode(kind, mean)) == 3
    figures, dense = (json.loads(cli("inspect", "--json", path).stdout) for path in (mean, bench.dense(kind)))
    assert figures["groups"] == [0, 0, 1, 1] and figures["residual_rank"] == 2
    assert figures["dense_encoder_matrix_parameters"] == dense["encoder_matrix_parameters"]
    saved = dense["encoder_matrix_parameters"] - figures["encoder_matrix_parameters"]
    assert figures["total_parameters"] == dense["total_parameters"] - saved < dense["total_parameters"]


@every_kind
def test_model_compressed_with_calibration_decodes(bench, kind):
    small = bench.folder / f"{kind} small.pt"
    flags = ("--calibration", bench.data(kind), "--calibration-batches", 2, "--refine-updates", 2)
    cli("compress", bench.dense(kind), *COMPRESSED, *flags, "--output", small)
    assert len(bench.decode(kind, small)) == 3
    assert {name: value.shape for name, value in weights(small).items()} == {
        name: value.shape for name, value in weights(bench.shared(kind)).items()
    }


@every_kind
def test_expanded_model_is_a_stock_model_with_the_same_output(bench, kind):
    shared, expanded = bench.shared(kind), bench.folder / f"{kind} expanded.pt"
    cli("expand", shared, "--output", expanded)
    assert list(weights(expanded)) == list(weights(bench.dense(kind)))
    dense, composed = (outputs(bench, kind, checkpoint)[0] for checkpoint in (expanded, shared))
    torch.testing.assert_close(dense, composed, rtol=0, atol=1e-5)
    assert bench.decode(kind, expanded, user_dir=kind in PATCHED) == bench.decode(kind, shared)


def test_model_fine_tuned_from_a_shared_pretrained_one_expands(bench):
    """It takes the sharing flags of the pretrained model."""
    tuned = bench.train("wav2vec_ctc", "tuned", "--w2v-path", bench.train("wav2vec2", "shared", *SHARED))
    assert any(name.endswith("shared_weights.layer_groups") for name in weights(tuned))
    expanded = bench.folder / "tuned expanded.pt"
    cli("expand", tuned, "--output", expanded)
    for user_dir in (True, False):
        assert bench.decode("wav2vec_ctc", expanded, user_dir=user_dir) == bench.decode("wav2vec_ctc", tuned)


@every_kind
@pytest.mark.parametrize("flag", ["--finetune-from-model", "--load-pretrained-encoder-from"])
def test_pretrained_dense_weights_are_compressed_into_shared_layers(bench, kind, flag):
    """fairseq alone would load one layer of each group."""
    if flag == "--load-pretrained-encoder-from" and kind not in ENCODERS:
        pytest.skip("the architecture has no such flag")
    started = weights(bench.train(kind, f"from {flag}", *SHARED, flag, bench.dense(kind), "--lr", "0"))
    for name, value in weights(bench.uncalibrated(kind)).items():
        of_batches = "running" in name or "num_batches" in name  # batch norm statistics
        if not of_batches and (flag == "--finetune-from-model" or name.startswith("encoder.")):
            torch.testing.assert_close(started[name], value, rtol=1e-4, atol=1e-5, msg=name)


@every_kind
def test_resuming_with_other_groups_is_refused_and_fine_tuning_is_not(bench, kind):
    flags = ("--encoder-group-size", "4", "--encoder-residual-rank", "2")
    shared = bench.shared(kind)
    message = bench.refused(*bench.training(kind, "other", *flags, "--restore-file", shared))
    assert "shares" in message and "0,0,1,1, this model" in message and "0,0,0,0" in message
    bench.train(kind, "other", *flags, "--finetune-from-model", shared)


GRAPHS = {kind for kind in KINDS if kind.startswith("s2t_")}


@every_kind
def test_model_is_exported_or_refused_by_name(bench, kind):
    shared, folder = bench.shared(kind), bench.folder / f"{kind} graph"
    result = cli("export", shared, "--output", folder, check=kind in GRAPHS)
    if kind in GRAPHS:
        assert (folder / "model.json").exists()
        return
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "cannot be exported" in result.stderr


# training flags combined with sharing, for one kind per layer class that has them
RECOMPUTING = ("wav2vec_ctc", "transformer")
DROPPING = {"transformer": "--encoder-layerdrop", "wav2vec_ctc": "--layerdrop"}
LAYERS = ("s2t_conformer", "s2t_conformer espnet rel_pos", "wav2vec_ctc", "transformer")


@pytest.mark.parametrize("kind", RECOMPUTING)
def test_activation_checkpointing_keeps_the_losses(bench, kind):
    flags = (*SHARED, "--dropout", "0")
    kept, recomputed = bench.train(kind, "kept", *flags), bench.train(kind, "recomputed", *flags, "--checkpoint-activations")
    assert (recomputed.parent / "losses").read_text() == (kept.parent / "losses").read_text()
    assert len(bench.decode(kind, recomputed)) == 3


@pytest.mark.parametrize("kind", DROPPING)
def test_layerdrop_trains_shared_layers(bench, kind):
    """Layers dropped in an update have no gradient for their residuals."""
    dropped = bench.train(kind, "dropped", *SHARED, DROPPING[kind], "0.5")
    assert (dropped.parent / "losses").read_text() != (bench.shared(kind).parent / "losses").read_text()
    assert len(bench.decode(kind, dropped)) == 3


@pytest.mark.parametrize("kind", LAYERS)
def test_moving_average_is_trained_and_decodes(bench, kind):
    last = bench.train(kind, "moving average", *SHARED, "--store-ema", "--ema-decay", "0.5")
    state = torch.load(last, weights_only=True)
    averaged = last.with_name("average.pt")
    torch.save({**state, "model": state["extra_state"]["ema"]}, averaged)
    assert not torch.equal(*(next(v for k, v in weights(path).items() if k.endswith(".up")) for path in (last, averaged)))
    assert len(bench.decode(kind, averaged)) == 3


@pytest.mark.parametrize("kind", LAYERS)
def test_bfloat16_model_runs(bench, kind):
    """The conversion that `--bf16` does. fairseq trains in bfloat16 only on GPUs."""
    whole, _ = outputs(bench, kind, bench.shared(kind))
    # where the processor multiplies in bfloat16 (AMX), oneDNN's convolutions of a waveform are wrong, in stock models as well
    with torch.backends.mkldnn.flags(enabled=False):
        half, model = outputs(bench, kind, bench.shared(kind), torch.bfloat16)
    torch.testing.assert_close(half.float(), whole, rtol=0.1, atol=0.1)
    half.float().log_softmax(-1)[..., 0].sum().backward()
    terms = [parameter for name, parameter in model.named_parameters() if "shared_weights" in name or name.endswith(".up")]
    assert terms and all(parameter.grad.isfinite().all() for parameter in terms)


def test_quantisation_noise_is_refused(bench):
    message = bench.refused(*bench.training("transformer", "noise", *SHARED, "--quant-noise-pq", "0.1"))
    assert "quant_noise_pq=0.1 does not work with shared layers" in message


@pytest.mark.parametrize("kind", LAYERS)
def test_two_processes_train_like_one(bench, kind):
    """The second process gets the second half of the sentences of each update."""
    flags = (*SHARED, "--max-epoch", "1", "--dropout", "0")
    alone = bench.train(kind, "alone", *flags, "--update-freq", "2")
    backend = "legacy_ddp" if KINDS[kind].pretrained else "pytorch_ddp"  # some of their convolutions have no gradients
    place = ("--ddp-backend", backend, "--distributed-world-size", 2, "--distributed-no-spawn", "--distributed-backend", "gloo")
    place += ("--distributed-init-method", f"tcp://127.0.0.1:{free_port()}")
    training = bench.training(kind, "together", *flags, *place)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda rank: bench.run(*training, "--distributed-rank", rank, log=f"log{rank}"), (0, 1)))
    together = weights(training[-1] / "checkpoint_last.pt")
    for name, value in weights(alone).items():
        if "running" in name or "num_batches" in name:  # batch norm statistics are those of a process's own batches
            continue
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4, msg=name)


# makes fairseq's simultaneous models trainable: imports its examples by the name that they have in a checkout, and removes their
# flags that fairseq's configuration does not have
SIMULTANEOUS = """
import importlib, sys
from fairseq.dataclass import utils
sys.modules["examples"] = importlib.import_module("fairseq.examples")
importlib.import_module("examples.simultaneous_translation")
overrides_of = utils.override_module_args
def override_module_args(args):
    overrides, deletes = overrides_of(args)
    return [override for override in overrides if not override.startswith("simul_type")], deletes
utils.override_module_args = override_module_args
"""


def test_emformer_is_shared_together_with_its_user_dir(bench, monkeypatch):
    """Only layers that the encoder calls are shared, not those that it builds and never calls."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(bench.folder))
    (bench.folder / "simultaneous").mkdir()
    (bench.folder / "simultaneous" / "__init__.py").write_text(SIMULTANEOUS)
    together = ("--user-dir", cli("user-dir", "--with", bench.folder / "simultaneous").stdout.strip())
    training = [*bench.training("convtransformer", "emformer", *EMFORMER.split(), *SHARED)[:-4], *together]
    save_dir = bench.folder / "runs" / "emformer"
    bench.run(*training, "--save-dir", save_dir)
    shared = save_dir / "checkpoint_last.pt"
    stack = "encoder.conv_transformer_encoder.shared_weights.layer_groups"
    assert [name for name in weights(shared) if name.endswith("layer_groups")] == [stack]
    # decoding would need SimulEval
    flags = [*KINDS["convtransformer"].task.split(), *DECODE["fairseq-validate"].split(), *together]
    assert "| loss " in bench.run("fairseq-validate", bench.data("convtransformer"), *flags, "--path", shared)
    expanded = bench.folder / "emformer.pt"
    bench.run("residual-st", "expand", shared, "--user-dir", bench.folder / "simultaneous", "--output", expanded)
    assert not [name for name in weights(expanded) if "shared_weights" in name or name.endswith(".up")]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def weights(checkpoint: Path) -> dict:
    return torch.load(checkpoint, weights_only=True)["model"]


def assert_same_weights(first: Path, second: Path) -> None:
    first, second = weights(first), weights(second)
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def outputs(bench: Bench, kind: str, checkpoint: Path, precision: torch.dtype = torch.float32) -> tuple[Tensor, nn.Module]:
    """The outputs for the test set in one batch, in evaluation mode, and the model."""
    overrides = {"data": str(bench.data(kind))}
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], arg_overrides=overrides)
    task.load_dataset("test")
    dataset = task.dataset("test")
    batch = dataset.collater([dataset[number] for number in range(len(dataset))])["net_input"]
    batch = utils.apply_to_sample(lambda value: value.to(precision) if value.is_floating_point() else value, batch)
    result = model.eval().to(precision)(**batch)
    return result["encoder_out"] if isinstance(result, dict) else result[0], model
