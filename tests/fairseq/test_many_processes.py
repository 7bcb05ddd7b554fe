"""Training with several processes: `residual-st train CONFIG nproc=N`."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY, cli

RESIDUAL_ST = [sys.executable, "-m", "residual_st", "train"]


@pytest.fixture(scope="module")
def config(data, tmp_path_factory) -> Path:
    """124 sentences in 7 batches, an unequal number per process for two or three processes."""
    flags = {"data": data, "config-yaml": "config_st_plain.yaml", "train-subset": "train_st", "valid-subset": "dev_st"}
    flags |= {name.replace("_", "-"): value for name, value in TINY.items()}
    flags |= {"task": "speech_to_text", "arch": "s2t_residual_transformer_s", "dropout": 0, "cpu": True, "seed": 1}
    flags |= {"criterion": "label_smoothed_cross_entropy_with_residual", "label-smoothing": 0.1}
    flags |= {"optimizer": "adam", "lr": 1e-3, "batch-size": 18, "required-batch-size-multiple": 1, "num-workers": 0}
    flags |= {"max-epoch": 2, "log-interval": 1, "log-format": "json", "no-epoch-checkpoints": True, "data-buffer-size": 0}
    path = tmp_path_factory.mktemp("together") / "run.yaml"
    path.write_text(yaml.safe_dump({name: str(value) for name, value in flags.items()}))
    return path


@pytest.fixture
def teacher(runs, fairseq_train, data) -> Path:
    if not (runs / "teacher" / "checkpoint_last.pt").exists():
        fairseq_train(data, runs / "teacher", max_update=2, arch="s2t_transformer_s")
    return runs / "teacher" / "checkpoint_last.pt"


@pytest.fixture
def cached_teacher(runs, data, teacher) -> Path:
    if not (runs / "words").exists():
        cli("cache-teacher", teacher, "--data", data, "--output", runs / "words", "--top-k", 5)
    return runs / "words"


def start(config: Path, save_dir: Path, **overrides) -> subprocess.Popen:
    given = {"save-dir": save_dir, **{name.replace("_", "-"): value for name, value in overrides.items()}}
    command = [*RESIDUAL_ST, config, *(f"{name}={value}" for name, value in given.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(map(str, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return output + errors


def losses(output: str) -> list[dict]:
    """The logged losses of each update."""
    rows = [json.loads(line[line.index("{") :]) for line in output.splitlines() if "| train_inner |" in line]
    return [
        {name: float(row[name]) for name in row if "loss" in name or name in ("num_updates", "residual_penalty")} for row in rows
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def assert_same_run(config: Path, tmp_path: Path, processes: int, together: list[subprocess.Popen], **options) -> None:
    output = "".join([finish(process) for process in together])
    alone = losses(finish(start(config, tmp_path / "alone", update_freq=processes, **options)))
    assert len(alone) == 2 * -(-7 // processes)
    assert losses(output) == [pytest.approx(row, rel=2e-3, abs=2e-3) for row in alone]
    single, several = (torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True) for name in ("alone", "together"))
    parts = [(single["model"], several["model"])]
    if "store_ema" in options:
        parts.append((single["extra_state"]["ema"], several["extra_state"]["ema"]))
    for expected, actual in parts:
        assert list(expected) == list(actual)
        for name in (name for name in expected if not name.endswith("_float_tensor")):
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-4)


def test_two_processes_with_every_loss_term_train_like_one(config, tmp_path, teacher):
    """With penalty, CTC, live teacher and moving average, fairseq's default backend, and unequal numbers of batches."""
    options = {"residual_penalty": 0.01, "ctc_weight": 0.3, "distill_from": teacher, "distill_encoder_weight": 1}
    options |= {"store_ema": "true", "ema_decay": 0.9, "ddp_backend": "pytorch_ddp"}
    assert_same_run(config, tmp_path, 2, [start(config, tmp_path / "together", nproc=2, **options)], **options)


def test_three_processes_with_a_cached_teacher_and_a_shared_decoder_train_like_one(config, tmp_path, cached_teacher):
    options = {"distill_from": cached_teacher, "decoder_layers": 2, "decoder_group_size": 2, "ddp_backend": "legacy_ddp"}
    assert_same_run(config, tmp_path, 3, [start(config, tmp_path / "together", nproc=3, **options)], **options)


def test_two_machines_train_like_one(config, tmp_path):
    options = {"config_yaml": "config_st.yaml", "ddp_backend": "no_c10d"}  # with SpecAugment
    place = {"nproc": 1, "nnodes": 2, "master": f"127.0.0.1:{free_port()}"}
    together = [start(config, tmp_path / "together", node_rank=rank, **place, **options) for rank in range(2)]
    assert_same_run(config, tmp_path, 2, together, **options)


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize("victim", ["worker", "launcher"])
def test_killed_process_ends_the_run_and_keeps_the_last_checkpoint(config, tmp_path, victim):
    options = {"max_epoch": 300, "save_interval_updates": 2, "keep_interval_updates": 1, "disable_validation": "true", "nproc": 2}
    process = start(config, tmp_path / "run", **options)
    last = tmp_path / "run" / "checkpoint_last.pt"
    wait_for(last.exists, 120)
    workers = children(process)
    assert len(workers) == 2
    os.kill(workers[1] if victim == "worker" else process.pid, signal.SIGKILL)
    killed = time.monotonic()
    if victim == "worker":
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 1
        assert errors.splitlines()[-1].startswith("residual-st train: process ")
        assert "Traceback" not in errors.splitlines()[-1]
    wait_for(lambda: not any(map(is_alive, workers)), 60)
    assert time.monotonic() - killed < 60
    process.communicate()
    reached = torch.load(last, weights_only=True)["optimizer_history"][-1]["num_updates"]
    output = finish(start(config, tmp_path / "run", **{**options, "max_update": reached + 2}))
    assert [row["num_updates"] for row in losses(output)] == [reached + 1, reached + 2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nproc=two"], "nproc=two is not a number"),
        (["nproc=0"], "must both be at least 1"),
        (["nproc=2", "distributed-world-size=2"], "remove one of them"),
        (["nproc=1", "nnodes=2"], "several machines need node-rank="),
        (["nproc=1", "nnodes=2", "node-rank=2", "master=node1:29500"], "must be from 0 to nnodes - 1"),
        (["nproc=1", "nnodes=2", "node-rank=1", "master=node1"], "must have the form HOST:PORT"),
        (["nproc=2", "ddp-backend=fully_sharded"], "ddp_backend=fully_sharded does not work"),
        (["nproc=2", "ddp-backend=slowmo"], "ddp_backend=slowmo does not work"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_conflicting_options_are_refused(config, overrides, message):
    result = cli("train", config, "--dry-run", *overrides, check=False)
    assert result.returncode == 2
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


def test_torchrun_command_is_printed(config):
    printed = cli("train", config, "--dry-run", "nproc=8", "nnodes=2", "node-rank=1", "master=node1:29500").stdout
    flags = "--nnodes 2 --node-rank 1 --nproc-per-node 8 --master-addr node1 --master-port 29500"
    assert printed.startswith(f"torchrun {flags} -m residual_st.fairseq.worker ")
    assert "nproc" not in printed.partition("residual_st.fairseq.worker")[2]
    assert cli("train", config, "--dry-run", "nproc=1").stdout.startswith("fairseq-train ")
