"""Definition of a matrix of training runs: systems, each for several tasks and seeds, and their dependencies."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from residual_st.errors import InputError

STARTS = ("compress", "keep-layers")
SANITY = ("dense", "bypassed", "every-third-layer", "four-layers")  # the systems that show whether a task can tell encoders apart
IDENTITY = ("task", "system", "seed", "start", "flags", "config")  # identifies a run in rows of results


@dataclass(frozen=True)
class Run:
    """One system for one task and seed. `@NAME` and `@TASK/NAME` in its flags refer to checkpoints of other systems."""

    task: str
    system: str
    seed: int
    start: dict  # the checkpoint to start from: `from`, and a key of `STARTS` that transforms it; empty for none
    flags: dict | None  # training flags over `config`; None for no training
    config: dict  # the task's config in the format of residual-st train, without the data folder

    @property
    def name(self) -> str:
        return f"{self.task}/{self.system}/{self.seed}"

    def needs(self) -> set[str]:
        """The names of runs whose checkpoints this one uses."""
        return {self._referred(value) for value in _strings([self.start, self.flags]) if value.startswith("@")}

    def _referred(self, value: str) -> str:
        task, _, system = value[1:].rpartition("/")
        return f"{task or self.task}/{system}/{self.seed}"

    def resolve(self, value, work: Path):
        """`value` with references replaced by paths of checkpoints."""
        if isinstance(value, str) and value.startswith("@"):
            return checkpoint_of(work / self._referred(value))
        return value

    def row(self) -> dict:
        """Its `IDENTITY` for a row of results."""
        return {name: getattr(self, name) for name in IDENTITY}


def _strings(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


@dataclass(frozen=True)
class Matrix:
    """A file such as benchmarks/quality.yaml."""

    configs: dict[str, Path]  # task -> file of its config
    test_sets: list[str]
    runs: list[Run]

    def chosen(self, tasks: list[str] | None, systems: list[str] | None, seeds: list[int] | None) -> list[Run]:
        """The runs of these tasks, systems and seeds, preceded by those that they depend on.

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


def read_matrix(path: Path, changes: dict | None = None) -> Matrix:
    """Read a matrix. Raises InputError if it names a missing file, system or key.

    Args:
        changes: training flags over those of every system.
    """
    try:
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        configs = {task: path.parent / config for task, config in text["tasks"].items()}
        test_sets = list(text["test-sets"])
        texts = {task: _config(config) for task, config in configs.items()}
        runs = [run for name, system in text["systems"].items() for run in _runs(name, system or {}, texts, changes or {})]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a matrix with tasks, test-sets and systems: {' '.join(str(error).split())}") from error
    names = {run.name for run in runs}
    for run in runs:
        for needed in sorted(run.needs() - names):
            raise InputError(f"{path}: {run.name} needs {needed}, which the matrix does not make")
    return Matrix(configs, test_sets, runs)


def _config(path: Path) -> dict:
    return {key: value for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items() if key != "data"}


def _runs(name: str, system: dict, configs: dict[str, dict], changes: dict) -> Iterator[Run]:
    unknown = set(system) - {"tasks", "seeds", "rates", "from", *STARTS, "flags", *(f"{task}-flags" for task in configs)}
    if unknown:
        raise InputError(f"system {name!r} has an unknown key {sorted(unknown)[0]!r}")
    if "rates" in system:
        form = {key: value for key, value in system.items() if key not in ("rates", "seeds")}
        for rate, seeds in system["rates"].items():
            at_rate = {**form, "seeds": seeds, "flags": {**form.get("flags", {}), "lr": float(rate)}}
            yield from _runs(f"{name}-{rate_name(float(rate))}", at_rate, configs, changes)
        return
    start = {key: system[key] for key in ("from", *STARTS) if key in system}
    for task in system.get("tasks", configs):
        flags = system.get("flags", {})
        if flags is not None:
            flags = {**flags, **system.get(f"{task}-flags", {}), **changes}
        for seed in system.get("seeds", [1]):
            yield Run(task, name, seed, start, flags, configs[task])


def rate_name(rate: float) -> str:
    """A learning rate as in names of systems: 0.0028 is 2.8e-3."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def checkpoint_of(folder: Path) -> Path:
    """The checkpoint of a finished run."""
    trained = folder / "checkpoint_last.pt"
    return trained if trained.exists() else folder / "start.pt"
