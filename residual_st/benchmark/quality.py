"""The matrix of training runs behind every claim on quality: what it holds, and carrying it out."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import yaml

from residual_st.benchmark.results import append, provenance, read
from residual_st.errors import InputError
from residual_st.evaluation.generated import read_generated
from residual_st.evaluation.logs import read_log
from residual_st.evaluation.scores import corpus_scores
from residual_st.models.standalone import load_model
from residual_st.modules import matrix_parameters

REFERENCE = "dense"
_STARTS = ("compress", "low-rank", "keep-layers")
_BEAM, _BATCH_FRAMES = 5, 20_000
_SECONDS = "core_seconds.txt"  # beside each log: what its commands took, so that a stopped run's add up


@dataclass(frozen=True)
class Run:
    """One system of the matrix, made for one task and seed. `@NAME` and `@TASK/NAME` in it are other systems' checkpoints."""

    task: str
    system: str
    seed: int
    start: dict  # the checkpoint that training begins with: `from`, and one of `_STARTS` for what is done to it; empty for none
    flags: dict | None  # of training, over the task's config; None for no training

    @property
    def name(self) -> str:
        return f"{self.task}/{self.system}/{self.seed}"

    def needs(self) -> set[str]:
        """The names of runs whose checkpoints this one takes."""
        return {self._referred(value) for value in _strings([self.start, self.flags]) if value.startswith("@")}

    def _referred(self, value: str) -> str:
        task, _, system = value[1:].rpartition("/")
        return f"{task or self.task}/{system}/{self.seed}"

    def resolve(self, value, work: Path):
        """`value` with the path of the checkpoint in place of a reference."""
        if isinstance(value, str) and value.startswith("@"):
            return checkpoint_of(work / self._referred(value))
        return value

    def row(self) -> dict:
        """What tells this run from others in a row of results."""
        return {"task": self.task, "system": self.system, "seed": self.seed, "start": self.start, "flags": self.flags}


def _strings(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


@dataclass(frozen=True)
class Matrix:
    """A file such as benchmarks/quality.yaml."""

    configs: dict[str, Path]  # task -> config of residual-st train
    test_sets: list[str]
    runs: list[Run]

    def chosen(self, tasks: list[str] | None, systems: list[str] | None, seeds: list[int] | None) -> list[Run]:
        """The runs of these tasks, systems and seeds, and those that they need, needed ones first.

        Raises:
            InputError: for a name that the matrix does not have.
        """
        for kind, names in (("task", tasks), ("system", systems)):
            known = list(dict.fromkeys(getattr(run, kind) for run in self.runs))
            for name in names or []:
                if name not in known:
                    raise InputError(f"the matrix has no {kind} {name!r}; it has {', '.join(known)}")
        by_name = {run.name: run for run in self.runs}
        ordered = {}

        def add(run: Run) -> None:
            for name in sorted(run.needs()):
                add(by_name[name])
            ordered.setdefault(run.name, run)

        for run in self.runs:
            if run.task in (tasks or [run.task]) and run.system in (systems or [run.system]) and run.seed in (seeds or [run.seed]):
                add(run)
        return list(ordered.values())


def read_matrix(path: Path) -> Matrix:
    """Read a matrix. Raises InputError for one that names a file, a system or a key that is not there."""
    try:
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        configs = {task: path.parent / config for task, config in text["tasks"].items()}
        test_sets = list(text["test-sets"])
        runs = [run for name, system in text["systems"].items() for run in _runs(name, system or {}, list(configs))]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a matrix with tasks, test-sets and systems: {' '.join(str(error).split())}") from error
    names = {run.name for run in runs}
    for run in runs:
        for needed in sorted(run.needs() - names):
            raise InputError(f"{path}: {run.name} needs {needed}, which the matrix does not make")
    for config in configs.values():
        if not config.is_file():
            raise InputError(f"{path} names {config}, which does not exist")
    return Matrix(configs, test_sets, runs)


def _runs(name: str, system: dict, tasks: list[str]) -> Iterator[Run]:
    unknown = set(system) - {"tasks", "seeds", "from", *_STARTS, "flags", *(f"{task}-flags" for task in tasks)}
    if unknown:
        raise InputError(f"system {name!r} has an unknown key {sorted(unknown)[0]!r}")
    start = {key: system[key] for key in ("from", *_STARTS) if key in system}
    for task in system.get("tasks", tasks):
        flags = system.get("flags", {})
        if flags is not None:
            flags = {**flags, **system.get(f"{task}-flags", {})}
        for seed in system.get("seeds", [1]):
            yield Run(task, name, seed, start, flags)


def checkpoint_of(folder: Path) -> Path:
    """The checkpoint that a finished run has left."""
    trained = folder / "checkpoint_last.pt"
    return trained if trained.exists() else folder / "start.pt"


def carry_out(
    matrix: Matrix, runs: list[Run], data: Path, work: Path, output: Path, jobs: int, report: Callable[[Run, str], None]
) -> list[Run]:
    """Make what is not made yet, `jobs` single-threaded processes at a time, and append a row for each run as it ends.

    A run whose row is there is not made again. One that was stopped goes on from its last checkpoint.

    Args:
        data: folder of manifests for all tasks.
        work: folder for checkpoints, logs and outputs.
        report: called with a run and what became of it.

    Returns:
        The runs that failed, or needed one that did.
    """
    done = {_key(row) for row in read(output) if "system" in row}
    ended = {run.name for run in runs if _key(run.row()) in done and checkpoint_of(work / run.name).exists()}
    waiting = [run for run in runs if run.name not in ended]
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
                elif isinstance(error, RunFailed):
                    failed.append(run)
                    report(run, f"failed: {error}")
                else:
                    raise error
    return failed


def _key(row: dict) -> str:
    return json.dumps([row[name] for name in ("task", "system", "seed", "start", "flags")], sort_keys=True)


class RunFailed(RuntimeError):
    """A command of a run failed. The message names its log."""


def make(run: Run, matrix: Matrix, data: Path, work: Path) -> dict:
    """Start, train, translate and score one run. Returns its row."""
    folder = work / run.name
    folder.mkdir(parents=True, exist_ok=True)
    config = matrix.configs[run.task]
    start = run.resolve(run.start["from"], work) if run.start else None
    if len(run.start) > 1:
        source, start = start, folder / "start.pt"
        if not start.exists():
            _command(_start_command(run, data, source, start), folder / "start.log")
    if run.flags is not None:
        _command(_train_command(run, config, data, work, start), folder / "train.log")
    checkpoint, sentences = checkpoint_of(folder), []
    for test_set in matrix.test_sets:
        generated = folder / f"generate-{test_set}_{run.task}.txt"
        _command(_generate_command(run, config, data, checkpoint, test_set), folder / "generate.log")
        sentences += read_generated(generated).values()
    model = load_model(checkpoint)[1]
    return {
        "benchmark": "quality",
        **run.row(),
        "encoder_matrix_parameters": matrix_parameters(model.encoder.transformer_layers),
        **corpus_scores(sentences),
        **_last_validation(folder / "train.log"),
        "core_minutes": round(sum(map(float, (folder / _SECONDS).read_text().split())) / 60, 1),
        "hypotheses": [sentence.hypothesis for sentence in sentences],
        "references": [sentence.reference for sentence in sentences],
        **provenance(),
    }


def _start_command(run: Run, data: Path, source: Path, output: Path) -> list:
    if "compress" in run.start:
        options = {"calibration": data, "seed": run.seed, **run.start["compress"]}
        return ["residual_st", "compress", source, "--output", output, "--force", *_options(options)]
    kind = next(key for key in _STARTS if key in run.start)
    arguments = run.start[kind] if kind == "keep-layers" else [run.start[kind], data]
    return ["residual_st.benchmark.starts", kind, source, output, *arguments]


def _options(options: dict) -> list:
    return [part for key, value in options.items() for part in ([f"--{key}"] if value is True else [f"--{key}", value])]


def _train_command(run: Run, config: Path, data: Path, work: Path, start: Path | None) -> list:
    overrides = {"data": data, "seed": run.seed, "save-dir": work / run.name}
    if start:
        overrides["finetune-from-model"] = start
    overrides |= {key: run.resolve(value, work) for key, value in run.flags.items()}
    return ["residual_st", "train", config, *(f"{key}={_yaml(value)}" for key, value in overrides.items())]


def _yaml(value) -> str:
    """A value as an override has it: empty drops a flag, and a list such as 0,0,1,1 stays a string."""
    if isinstance(value, bool) or value == "":
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)


def _generate_command(run: Run, config: Path, data: Path, checkpoint: Path, test_set: str) -> list:
    text = yaml.safe_load(config.read_text(encoding="utf-8"))
    options = {
        "user-dir": Path(__file__).parent.parent,
        "task": text["task"],
        "config-yaml": text["config-yaml"],
        "gen-subset": f"{test_set}_{run.task}",
        "path": checkpoint,
        "results-path": checkpoint.parent,
        "beam": _BEAM,
        "max-tokens": _BATCH_FRAMES,
        "num-workers": 0,
        "scoring": "sacrebleu",
        "cpu": True,
    }
    return ["fairseq_cli.generate", data, *_options(options)]


def _command(command: list, log: Path) -> None:
    """Run a module on one thread, its output appended to a log. Raises RunFailed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    with open(log.with_name(_SECONDS), "a", encoding="utf-8") as file:
        file.write(f"{usage.ru_utime + usage.ru_stime:.1f}\n")
    if process.returncode:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise RunFailed(f"{' '.join(last)[:300]} (see {log})")


def _last_validation(log: Path) -> dict:
    """The last validation's losses per token, base 2, and the updates before it; nothing where nothing was trained."""
    if not log.exists():
        return {}
    curves = read_log(log).validation
    kept = {f"dev_{name}": curves[name][-1][1] for name in ("nll_loss", "ctc_loss") if name in curves}
    return {**kept, "updates": curves["loss"][-1][0]}
