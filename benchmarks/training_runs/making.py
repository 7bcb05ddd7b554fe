"""Execution of a matrix of training runs."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from residual_st.benchmark.results import append, provenance, read
from residual_st.errors import InputError
from residual_st.evaluation.generated import Sentence, read_generated
from residual_st.evaluation.logs import read_log
from residual_st.evaluation.scores import corpus_scores
from residual_st.evaluation.units import units_of
from residual_st.fairseq.checkpoints import model_flags
from residual_st.fairseq.description import describe
from residual_st.fairseq.manifest import read_manifest
from residual_st.fairseq.standalone import load_model
from residual_st.fairseq.user_dir import PACKAGE
from training_runs.comparison import metrics_of
from training_runs.counts import counted
from training_runs.matrix import IDENTITY, Matrix, Run, checkpoint_of

_BEAM, _BATCH_FRAMES = 5, 20_000
_SECONDS = "core_seconds.txt"  # next to each log: core seconds of its commands, which are summed over interruptions


def carry_out(
    matrix: Matrix, runs: list[Run], data: Path, work: Path, output: Path, jobs: int, report: Callable[[Run, str], None]
) -> list[Run]:
    """Make unfinished runs, `jobs` single-threaded processes at a time, and append a row per run when it ends.

    These are the runs of `to_make`. An interrupted run resumes from its last checkpoint.

    Args:
        data: folder of manifests for all tasks.
        work: folder for checkpoints, logs and outputs.
        report: called with a run and its outcome.

    Returns:
        The runs that failed or depend on a failed run.
    """
    done = {_key(row) for row in read(output)}
    waiting = to_make(runs, work, output)
    needed = set().union(*(run.needs() for run in waiting))
    for run in runs:
        if run in waiting or run.name in needed:
            _claim(run, work / run.name)
    ended = {run.name for run in runs} - {run.name for run in waiting}
    failed, running = [], {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            ready = [run for run in waiting if run.needs() <= ended][: jobs - len(running)]
            for run in ready:
                waiting.remove(run)
                running[pool.submit(make, run, matrix, data, work)] = run
                report(run, "started")
            if not running:
                for run in waiting:
                    report(run, "left out, because a run that it needs failed")
                return failed + waiting
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                error = future.exception()
                if error is None:
                    ended.add(run.name)
                    if _key(run.row()) not in done:
                        append(output, future.result())
                    report(run, "finished")
                elif isinstance(error, (RunFailed, InputError)):
                    failed.append(run)
                    report(run, f"failed: {error}")
                else:
                    raise error
    return failed


def to_make(runs: list[Run], work: Path, output: Path) -> list[Run]:
    """Runs without a row, and runs without a checkpoint that others depend on, in the order of `runs`."""
    done = {_key(row) for row in read(output)}
    chosen, needed = [], set()
    for run in reversed(runs):  # a run follows those that it needs
        if _key(run.row()) not in done or (run.name in needed and not checkpoint_of(work / run.name).exists()):
            chosen.insert(0, run)
            needed |= run.needs()
    return chosen


def _key(row: dict) -> str:
    return json.dumps([row.get(name) for name in IDENTITY], sort_keys=True)


def _claim(run: Run, folder: Path) -> None:
    """Make a run's folder. Raises InputError if it contains a run with other flags."""
    folder.mkdir(parents=True, exist_ok=True)
    claim, content = folder / "run.json", json.dumps(run.row(), indent=2) + "\n"
    if claim.exists() and claim.read_text(encoding="utf-8") != content:
        raise InputError(f"{folder} holds a run with other flags or another config; choose another --work, or delete that folder")
    claim.write_text(content, encoding="utf-8")


class RunFailed(RuntimeError):
    """A command of a run failed. The message names its log."""


def make(run: Run, matrix: Matrix, data: Path, work: Path) -> dict:
    """Make the start checkpoint, train, decode and score one run. Returns its row."""
    folder = work / run.name
    config = matrix.configs[run.task]
    start = run.resolve(run.start["from"], work) if run.start else None
    if len(run.start) > 1:
        source, start = start, folder / "start.pt"
        if not start.exists():
            _command(_start_command(run, data, source, start), folder / "start.log")
    if run.flags is not None and not _trained(folder):
        _command(_train_command(run, config, data, work, start), folder / "train.log")
    checkpoint, sentences, of_ctc = checkpoint_of(folder), [], []
    state, model = load_model(checkpoint)
    for test_set in matrix.test_sets:
        subset, log = f"{test_set}_{run.task}", folder / "generate.log"
        _command(_generate_command(run, data, checkpoint, subset, folder), log)
        sentences += _read_whole(folder / f"generate-{subset}.txt", data / f"{subset}.tsv")
        if getattr(model.encoder, "ctc_proj", None) is not None:
            ctc_output = folder / f"ctc-{subset}.txt"
            _command(["-m", "residual_st.evaluation.ctc", checkpoint, data, subset, ctc_output], log)
            of_ctc += _read_whole(ctc_output, data / f"{subset}.tsv")
    units = units_of(sentence.reference for sentence in sentences)
    counts = {}
    for metric in metrics_of(run.task):
        counts |= counted(metric, of_ctc if metric == "ctc_wer" else sentences, units)
    return {
        "benchmark": "quality",
        **run.row(),
        "encoder_matrix_parameters": describe(model, model_flags(state, checkpoint))["encoder_matrix_parameters"],
        **corpus_scores(sentences, units),
        **_learning(folder / "train.log"),
        "core_minutes": round(sum(map(float, (folder / _SECONDS).read_text().split())) / 60, 1),
        **counts,
        **provenance(),
    }


def _trained(folder: Path) -> bool:
    """Whether training is finished, by the last line of the log. fairseq would add an update to a finished model."""
    log = folder / "train.log"
    if not log.exists() or not (folder / "checkpoint_last.pt").exists():
        return False
    return "done training" in log.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]


def _read_whole(generated: Path, manifest: Path) -> list[Sentence]:
    """The sentences of a test set. Raises RunFailed if some are missing, since scores would not be comparable."""
    sentences, lines = read_generated(generated), read_manifest(manifest)
    if list(sentences) != list(range(len(lines))):
        raise RunFailed(f"{generated} has {len(sentences)} of the {len(lines)} sentences of {manifest}")
    return list(sentences.values())


def _start_command(run: Run, data: Path, source: Path, output: Path) -> list:
    if "compress" in run.start:
        options = {"calibration": data, "seed": run.seed, **run.start["compress"]}
        return ["-m", "residual_st", "compress", source, "--output", output, "--force", *_options(options)]
    return [Path(__file__).with_name("keep_layers.py"), source, output, *run.start["keep-layers"]]


def _options(options: dict) -> list:
    return [part for key, value in options.items() for part in ([f"--{key}"] if value is True else [f"--{key}", value])]


def _train_command(run: Run, config: Path, data: Path, work: Path, start: Path | None) -> list:
    overrides = {"data": data, "seed": run.seed, "save-dir": work / run.name}
    if start:
        overrides["finetune-from-model"] = start
    overrides |= {key: run.resolve(value, work) for key, value in run.flags.items()}
    overrides = {key: "null" if value is None else value for key, value in overrides.items()}
    return ["-m", "residual_st", "train", config, *(f"{key}={value}" for key, value in overrides.items())]


def _generate_command(run: Run, data: Path, checkpoint: Path, subset: str, results: Path) -> list:
    options = {
        "user-dir": PACKAGE,
        "task": run.config["task"],
        "config-yaml": run.config["config-yaml"],
        "gen-subset": subset,
        "path": checkpoint,
        "results-path": results,
        "beam": _BEAM,
        "max-tokens": _BATCH_FRAMES,
        "num-workers": 0,
        "scoring": "sacrebleu",
    }
    if {**run.config, **(run.flags or {})}.get("cpu"):
        options["cpu"] = True
    return ["-m", "fairseq_cli.generate", data, *_options(options)]


def _command(command: list, log: Path) -> None:
    """Run Python on one thread, its output appended to a log.

    Raises:
        RunFailed: if the command fails, or if a process of an interrupted benchmark still writes to this log.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    with open(log, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # inherited by the process, which holds the lock until it ends
        except BlockingIOError as error:
            raise RunFailed(f"another process still writes to {log}; wait for it or stop it") from error
        process = subprocess.Popen([sys.executable, *map(str, command)], stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    with open(log.with_name(_SECONDS), "a", encoding="utf-8") as file:
        file.write(f"{usage.ru_utime + usage.ru_stime:.1f}\n")
    if process.returncode:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise RunFailed(f"{' '.join(last)[:300]} (see {log})")


def _learning(log: Path) -> dict:
    """Dev losses per token in bits after each epoch and at the end, and the number of updates; empty without training."""
    if not log.exists():
        return {}
    curves = read_log(log).validation
    learned = {f"dev_{name}": curves[name] for name in ("nll_loss", "ctc_loss") if name in curves}
    return {
        **{name: curve[-1][1] for name, curve in learned.items()},
        "updates": curves["loss"][-1][0],
        "curves": learned,
    }
