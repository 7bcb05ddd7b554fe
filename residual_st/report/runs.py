"""What there is of a run: its checkpoint, its log and its translations."""

from dataclasses import dataclass, field
from pathlib import Path

from residual_st.errors import InputError
from residual_st.evaluation.generated import Sentence, read_generated
from residual_st.evaluation.logs import Log, read_log
from residual_st.fairseq.checkpoints import model_flags
from residual_st.fairseq.description import describe
from residual_st.fairseq.kinds import stacks_of
from residual_st.fairseq.standalone import load_model
from residual_st.stacks.figures import residual_energy

_CHECKPOINTS = ("checkpoint_best.pt", "checkpoint_last.pt", "start.pt")


@dataclass
class RunFiles:
    """One run. What was not found is None or empty.

    Attributes:
        sentences: line of the manifest -> sentence, of the one test set.
        model: `describe` of the checkpoint.
        energies: `residual_energy` of its stacks; empty for a dense model.
    """

    name: str
    log: Log | None = None
    sentences: dict[int, Sentence] = field(default_factory=dict)
    model: dict | None = None
    energies: list[dict] = field(default_factory=list)


def read_run(argument: str, test_set: str | None) -> RunFiles:
    """Read `NAME=PATH` or `PATH`: a folder, a checkpoint, a log or an output of fairseq-generate.

    Of a folder it takes the logs (*.log), the best checkpoint and the output generate-*.txt, or with `test_set` the one of it.

    Raises:
        InputError: if there is no log, output or checkpoint, or several outputs to choose from.
    """
    name, equals, text = argument.partition("=")
    path = Path(text if equals else argument)
    if not equals:
        name = path.stem if path.is_file() else path.name
    run = RunFiles(name)
    if path.is_dir():
        logs, outputs = sorted(path.glob("*.log")), sorted(path.glob("generate-*.txt"))
        if test_set:
            outputs = [output for output in outputs if output.stem == f"generate-{test_set}"]
        if len(outputs) > 1:
            names = ", ".join(output.stem.removeprefix("generate-") for output in outputs)
            raise InputError(f"{path} has translations of several test sets; choose one of {names} by --test-set")
        checkpoint = next((path / name for name in _CHECKPOINTS if (path / name).is_file()), None)
    else:
        logs, outputs, checkpoint = [], [], None
        if not path.exists():
            raise InputError(f"{path} does not exist; give a run's folder, its log, its checkpoint or its translations")
        if path.suffix == ".pt":
            checkpoint = path
        elif _is_output(path):
            outputs = [path]
        else:
            logs = [path]
    for log in logs:
        _add_log(run, log, required=not path.is_dir())
    for output in outputs:
        run.sentences = read_generated(output)
    if checkpoint:
        state, model = load_model(checkpoint)
        run.model, run.energies = describe(model, model_flags(state, checkpoint)), residual_energy(stacks_of(model))
    if run.log is None and not run.sentences and run.model is None:
        raise InputError(f"{path} contains no log of fairseq-train, no generate-*.txt and no checkpoint")
    return run


def _is_output(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return any(line.startswith(("T-", "D-", "H-", "S-")) for _, line in zip(range(200), file))


def _add_log(run: RunFiles, path: Path, required: bool) -> None:
    try:
        log = read_log(path)
    except InputError:
        if required:
            raise
        return  # a folder may contain logs of other commands
    run.log = log
