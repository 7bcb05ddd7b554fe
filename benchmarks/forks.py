"""The unmodified conformers of two fairseq forks with the flags of sharing: trained, decoded, compressed, expanded.

    python benchmarks/forks.py CORPUS FBK-fairseq=CHECKOUT StreamSpeech=CHECKOUT

CORPUS is a prepared corpus. A row has the outcome of a step. The last steps decode with only the fork's user dir, without
residual_st, and compare hypotheses. Both forks run with the installed fairseq instead of their own.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from residual_st.benchmark.results import append, provenance
from residual_st.errors import InputError
from residual_st.fairseq.other_user_dirs import UserDir, find_user_dir, user_dir_with

RESULTS = Path(__file__).parent / "results" / "forks.jsonl"


@dataclass(frozen=True)
class Fork:
    """A model of a fork at a commit.

    Attributes:
        user_dir: its path in the checkout.
        flags: of its model.
    """

    commit: str
    user_dir: str
    arch: str
    flags: list[str] = field(default_factory=list)


FORKS = {
    # synchronised batch norm needs GPUs
    "FBK-fairseq": Fork("4cd7c6dcda7b5e7714f611d99a5d216bbdfc20f4", "examples/speech_to_text", "conformer", ["--no-syncbatchnorm"]),
    "StreamSpeech": Fork(
        "375a73ab24f33b929ea55fe7809ece9d500c71cc",
        "researches/chunk_unity",
        "chunk_s2t_conformer",
        "--chunk-size 8 --encoder-ffn-embed-dim 128".split(),
    ),
}
SHARED = "--encoder-group-size 2 --encoder-residual-rank 2".split()
TRAIN = """--train-subset train_st --valid-subset dev_st --disable-validation --no-epoch-checkpoints
    --max-update 3 --max-tokens 4000 --criterion label_smoothed_cross_entropy --optimizer adam --lr 1e-3 --clip-norm 10 --seed 1
    --conv-channels 64 --encoder-layers 4 --encoder-embed-dim 32 --encoder-attention-heads 4
    --decoder-layers 1 --decoder-embed-dim 32 --decoder-ffn-embed-dim 64 --decoder-attention-heads 4""".split()
# unpatched fairseq-fixed drops a last batch whose size is not a multiple of eight
GENERATE = "--gen-subset dev_st --max-tokens 4000 --beam 2 --max-len-b 10 --required-batch-size-multiple 1".split()
COMMON = "--task speech_to_text --config-yaml config_st.yaml --num-workers 2 --cpu".split()


class Failure(Exception):
    """A failed step. The message is the last line of the command's output."""


def run(program: str, *arguments) -> str:
    """The output of a command that is installed in the environment of this Python."""
    command = [str(part) for part in (Path(sys.executable).with_name(program), *arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise Failure((result.stderr.strip().splitlines() or ["no message"])[-1])
    return result.stdout


def alone(user_dir: UserDir, folder: Path) -> Path:
    """A user dir that imports the fork's package by its own name, without residual_st."""
    lines = ["import importlib, sys", f"sys.path.insert(0, {user_dir.root!r})"]
    lines += [f"sys.modules.pop({user_dir.name.partition('.')[0]!r}, None)  # fairseq has imported `examples`"]
    lines += [f"importlib.import_module({user_dir.name!r})"]
    (folder / "fork_alone").mkdir()
    (folder / "fork_alone" / "__init__.py").write_text("\n".join(lines))
    return folder / "fork_alone"


def hypotheses(corpus: Path, user_dir: Path, checkpoint: Path) -> dict[int, tuple[str, float]]:
    """Sentence -> translation and score."""
    output = run("fairseq-generate", corpus, "--user-dir", user_dir, "--path", checkpoint, *COMMON, *GENERATE)
    lines = re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", output, re.MULTILINE)
    if not lines:
        raise Failure("no hypotheses")
    return {int(number): (text, float(score)) for number, score, text in lines}


def compared(actual: dict, expected: dict) -> str:
    if actual.keys() != expected.keys():
        raise Failure(f"{len(actual)} and {len(expected)} hypotheses")
    texts = sum(actual[number][0] != expected[number][0] for number in actual)
    scores = max(abs(actual[number][1] - expected[number][1]) for number in actual)
    if texts or scores > 1e-3:
        raise Failure(f"{texts} of {len(actual)} hypotheses differ, scores by up to {scores:.1e}")
    return f"{len(actual)} hypotheses, all the same; scores differ by {scores:.1e} or less"


def steps(fork: Fork, checkout: Path, corpus: Path, work: Path):
    """Yield the name of each step and a function that runs it and returns a description of the result."""
    user_dir = find_user_dir(str(checkout / fork.user_dir))
    both, fork_alone = user_dir_with([str(checkout / fork.user_dir)]), alone(user_dir, work)
    dense, shared, small = work / "dense" / "checkpoint_last.pt", work / "shared" / "checkpoint_last.pt", work / "compressed.pt"
    texts_of = {}

    def train(name: str, *flags: str) -> str:
        run(
            "fairseq-train",
            corpus,
            "--user-dir",
            both,
            "--save-dir",
            work / name,
            "--arch",
            fork.arch,
            *COMMON,
            *TRAIN,
            *fork.flags,
            *flags,
        )
        return f"checkpoint of {(work / name / 'checkpoint_last.pt').stat().st_size:,} bytes"

    def translate(checkpoint: Path) -> str:
        texts_of[checkpoint] = hypotheses(corpus, both, checkpoint)
        scores = [score for _, score in texts_of[checkpoint].values()]
        return f"{len(scores)} hypotheses, scores from {min(scores)} to {max(scores)}"

    def residual_st(command: str, checkpoint: Path, *arguments) -> str:
        return run("residual-st", command, checkpoint, "--user-dir", checkout / fork.user_dir, *arguments)

    def expand(checkpoint: Path) -> str:
        expanded = work / f"{checkpoint.parent.name}-{checkpoint.stem}-expanded.pt"
        residual_st("expand", checkpoint, "--output", expanded)
        return compared(texts_of[checkpoint], hypotheses(corpus, fork_alone, expanded))

    calibrated = ["--calibration", corpus, "--calibration-batches", 2]
    yield "train dense, 3 updates", lambda: train("dense")
    yield "translate dense", lambda: translate(dense)
    yield "train shared, K=2 R=2, 3 updates", lambda: train("shared", *SHARED)
    yield "resume shared, to 5 updates", lambda: train("shared", *SHARED, "--max-update", "5")
    yield "inspect shared", lambda: re.search(r"encoder_weight_fraction +\S+", residual_st("inspect", shared))[0]
    yield "translate shared", lambda: translate(shared)
    yield "expand shared, translate by the fork alone", lambda: expand(shared)
    tuning = [*SHARED, "--finetune-from-model", str(dense)]
    yield "dense into shared by --finetune-from-model, 3 updates", lambda: train("tuned", *tuning)
    size = ["--group-size", 2, "--residual-rank", 2]
    yield "compress dense, calibrated", lambda: residual_st("compress", dense, "--output", small, *size, *calibrated) and "written"
    yield "translate compressed", lambda: translate(small)
    yield "expand compressed, translate by the fork alone", lambda: expand(small)


def check_commit(name: str, checkout: Path) -> None:
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if commit != FORKS[name].commit:
        raise InputError(f"{checkout} must be a checkout of {name} at {FORKS[name].commit}, and is at {commit or 'no commit'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.split("\n\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("checkouts", nargs="+", metavar="FORK=CHECKOUT", help=f"FORK is one of {', '.join(FORKS)}")
    args = parser.parse_args()
    failed = False
    for name, _, checkout in (argument.partition("=") for argument in args.checkouts):
        if name not in FORKS:
            parser.error(f"{name} must be one of {', '.join(FORKS)}")
        fork, checkout = FORKS[name], Path(checkout).absolute()
        try:
            check_commit(name, checkout)
        except InputError as error:
            parser.error(str(error))
        with tempfile.TemporaryDirectory() as work:
            for step, carry_out in steps(fork, checkout, args.corpus.absolute(), Path(work)):
                try:
                    row = {"works": True, "outcome": carry_out()}
                except (Failure, KeyError) as error:
                    row, failed = {"works": False, "outcome": str(error)}, True
                row = {"fork": name, "fork_commit": fork.commit, "system": fork.arch, "seed": 1, "step": step, **row}
                print(*(row[key] for key in ("fork", "step", "works", "outcome")), sep=" | ", flush=True)
                append(RESULTS, {**row, **provenance()})
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
