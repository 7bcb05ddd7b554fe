"""Kill commands at random moments: the next start must resume or restart cleanly, and never use partial files.

    python benchmarks/faults/kills.py WORK [--cases NAME …] [--output ROWS.jsonl]

WORK is a new folder or that of an earlier run; a small synthetic corpus and small models are made there first. Each case is a
command that writes files. It runs once to its end, as a reference for its output and duration. Then it is restarted and killed by
SIGKILL with all processes that it started: at a random moment, or within milliseconds after an unfinished file appears next to its
output. Files under final names must then equal those of the reference. Running the command again must succeed and write equal
files, weight for weight. Training and the quality benchmark are killed several times in one run.

A row per kill is appended at once; kills that have rows are skipped.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
import yaml

from residual_st.benchmark import results
from residual_st.fairseq.checkpoints import load_checkpoint

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "faults_kills.jsonl"
UNFINISHED = ("*.partial", "*.tmp")
SLOWEST = 600  # seconds allowed for a command
RESIDUAL_ST = [sys.executable, "-m", "residual_st"]
TINY = {
    "encoder-layers": 6, "encoder-embed-dim": 128, "encoder-ffn-embed-dim": 512, "encoder-attention-heads": 4,
    "decoder-layers": 1, "decoder-attention-heads": 4, "conv-channels": 64,
}  # fmt: skip


@dataclass
class Case:
    """A command.

    Attributes:
        command: with `{out}` in place of the output path.
        kills: how often it is killed.
        in_a_row: how often it is killed before it may end; more than once for commands that resume.
        grows: whether its output grows, so that a kill leaves a part, which is compared only at the end.
        start: a folder that is copied to `{out}` first.
    """

    command: list
    kills: int
    in_a_row: int = 1
    grows: bool = False
    start: Path | None = None


def cases(work: Path) -> dict[str, Case]:
    data, dense, shared = work / "corpus" / "en-de", work / "dense" / "checkpoint_last.pt", work / "shared.pt"
    train = [*RESIDUAL_ST, "train", work / "run.yaml", "save-dir={out}", "arch=s2t_residual_transformer_s"]
    prepare = [sys.executable, ROOT / "examples" / "must_c" / "prepare.py", "-d", "{out}", "--languages", "de", "--task", "st"]
    compress = [*RESIDUAL_ST, "compress", dense, "--output", "{out}", "--group-size", "3", "--calibration", data]
    teach = [*RESIDUAL_ST, "cache-teacher", dense, "--data", data, "--output", "{out}"]
    quality = [sys.executable, ROOT / "benchmarks" / "quality.py", work / "matrix.yaml", "--data", data, "--seeds", "1"]
    return {
        "train": Case([*train, "save-interval-updates=2"], 20, in_a_row=4, grows=True),
        "train, two processes": Case([*train, "save-interval-updates=2", "nproc=2"], 4, in_a_row=2, grows=True),
        "prepare": Case([*prepare, "--vocab-size", "150", "--workers", "1"], 8, start=work / "release"),
        "compress": Case([*compress, "--calibration-batches", "2", "--refine-updates", "8"], 8),
        "average": Case([*RESIDUAL_ST, "average", dense, dense, "--output", "{out}"], 6),
        "expand": Case([*RESIDUAL_ST, "expand", shared, "--output", "{out}"], 6),
        "export": Case([*RESIDUAL_ST, "export", shared, "--data", data, "--output", "{out}", "--precision", "int8"], 8),
        "cache-teacher": Case(teach, 6),
        "benchmarks/quality.py": Case([*quality, "--work", "{out}", "--output", "{out}/rows.jsonl"], 6, in_a_row=3, grows=True),
    }


def set_up(work: Path) -> None:
    """Make the corpus and the models for all cases."""
    if (work / "ready").exists():
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    recipe = ROOT / "examples" / "must_c"
    run([sys.executable, recipe / "make_demo_corpus.py", "--output", work / "release", "--hours", "0.1"])
    shutil.copytree(work / "release", work / "corpus")
    run([sys.executable, recipe / "prepare.py", "-d", work / "corpus", "--languages", "de", "--task", "st", "--vocab-size", "150"])
    flags = {"data": work / "corpus" / "en-de", "config-yaml": "config_st.yaml", "train-subset": "train_st"}
    flags |= {"valid-subset": "dev_st", "task": "speech_to_text", "arch": "s2t_transformer_s", "label-smoothing": 0.1}
    flags |= {
        "criterion": "label_smoothed_cross_entropy_with_residual",
        "optimizer": "adam",
        "lr": 2e-3,
        "max-tokens": 4000,
        "max-update": 20,
        "num-workers": 1,
    }
    flags |= {"cpu": True, "seed": 1, "log-format": "simple", **TINY}
    (work / "run.yaml").write_text(yaml.safe_dump({key: str(value) for key, value in flags.items()}))
    run([*RESIDUAL_ST, "train", work / "run.yaml", f"save-dir={work}/dense"])
    run([*RESIDUAL_ST, "compress", work / "dense" / "checkpoint_last.pt", "--output", work / "shared.pt", "--group-size", "3"])
    flags |= {"save-interval-updates": 3, "log-interval": 2, "max-update": 8}
    del flags["data"]
    (work / "st.yaml").write_text(yaml.safe_dump({key: str(value) for key, value in {**flags, "data": "unused"}.items()}))
    residual = {"from": "@dense", "compress": {"group-size": 3, "residual-rank": 2}, "flags": {"max-update": 4}}
    matrix = {"tasks": {"st": "st.yaml"}, "test-sets": ["tst-HE"], "systems": {"dense": {"seeds": [1]}, "residual": residual}}
    (work / "matrix.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False))
    (work / "ready").touch()


def run(command: list) -> None:
    """Run a command to its end. Raises SystemExit with its output if it fails."""
    try:
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=SLOWEST)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{command} took more than {SLOWEST} s") from None
    if result.returncode:
        raise SystemExit(f"{command} ended with {result.returncode}:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")


def killed(command: list, folder: Path, after: float, on_writing: bool) -> bool:
    """Start a command, and kill it with all processes that it started. Returns whether it was still running.

    Args:
        after: seconds until the kill; with `on_writing` from the appearance of a new unfinished file in `folder`.
    """
    before = unfinished(folder)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if on_writing:
        while process.poll() is None and not unfinished(folder) - before:
            time.sleep(0.001)
    time.sleep(after)
    alive = process.poll() is None
    for pid in [*descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return alive


def descendants(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(child) for child in task.read_text().split()]
    return [descendant for child in children for descendant in [*descendants(child), child]]


def unfinished(folder: Path) -> set[tuple[Path, int]]:
    """Unfinished files and folders with their inodes, so that a rewritten file counts as a new one."""
    paths = set()
    for pattern in UNFINISHED:
        for path in folder.rglob(pattern):
            with contextlib.suppress(OSError):
                paths.add((path, path.stat().st_ino))
    return paths


def files(path: Path) -> dict[str, Path]:
    """All files with final names at or below a path."""
    if path.is_file():
        return {"": path}
    by_name = {}
    for file in path.rglob("*"):
        name = str(file.relative_to(path))
        if file.is_file() and not any(part.endswith((".partial", ".tmp")) for part in Path(name).parts):
            by_name[name] = file
    return by_name


def alike(file: Path, expected: Path) -> bool:
    """Whether two files are equal: weights of checkpoints, figures of results, bytes of other files."""
    if file.suffix == ".pt" or "checkpoint" in file.name:
        actual, reference = (load_checkpoint(each)["model"] for each in (file, expected))
        return list(actual) == list(reference) and all(torch.equal(actual[name], reference[name]) for name in actual)
    if file.suffix == ".model":  # a SentencePiece model contains its original path
        actual, reference = (sentencepiece.SentencePieceProcessor(model_file=str(each)) for each in (file, expected))
        return [(actual.id_to_piece(n), actual.get_score(n)) for n in range(len(actual))] == [
            (reference.id_to_piece(n), reference.get_score(n)) for n in range(len(reference))
        ]
    if file.name == "rows.jsonl":
        kept = ("system", "task", "seed", "kept", "wer", "bleu", "words", "errors")
        actual, reference = ([{key: row.get(key) for key in kept} for row in results.read(each)] for each in (file, expected))
        return actual == reference
    if file.name in ("model.json", "README.md", "meta.json", "config_st.yaml") or file.suffix in (".tsv",):
        # they contain their folder, and the time or versions of their creation
        return same_text(file, expected)
    return file.read_bytes() == expected.read_bytes()


def same_text(file: Path, expected: Path) -> bool:
    root = str(file).partition("/out")[0]
    reference_root = str(expected).partition("/whole")[0]
    actual, reference = file.read_text(encoding="utf-8"), expected.read_text(encoding="utf-8")
    return actual.replace(f"{root}/out", "OUT") == reference.replace(f"{reference_root}/whole", "OUT")


def compared(case: Case, out: Path, expected: Path, partly: bool) -> list[str]:
    """Descriptions of all problems of an output. `partly`: files may be missing, and growing files are only read."""
    problems, produced, references = [], files(out), files(expected)
    if not partly:
        problems += [f"{missing} is missing" for missing in references.keys() - produced.keys() if not skipped(missing)]
        problems += [f"{path.name} is left over" for path, _ in unfinished(out)]
    for key, file in produced.items():
        if key not in references or skipped(key) or (partly and file.name == "rows.jsonl"):
            continue
        if partly and case.grows and file.name in ("checkpoint_last.pt", "checkpoint_best.pt"):
            load_checkpoint(file)  # from an earlier update, but complete
        elif not alike(file, references[key]):
            problems.append(f"{key or file.name} differs from the reference")
    return problems


def skipped(name: str) -> bool:
    """Logs, which contain times, and outputs of the quality benchmark other than rows and checkpoints."""
    return name.endswith(("log", "core_seconds.txt")) or "generate" in name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--cases", nargs="+", metavar="NAME")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    work = args.work.absolute()
    set_up(work)
    for name, case in cases(work).items():
        if args.cases and name not in args.cases:
            continue
        done = sum(row["system"] == name for row in results.read(args.output))
        if done < case.kills:
            attack(name, case, work, done, args.output)


def attack(name: str, case: Case, work: Path, done: int, output: Path) -> None:
    """Do the kills of one case that have no row."""
    folder = work / name.replace(" ", "_").replace(",", "")
    whole, out = folder / "whole" / "it", folder / "out" / "it"
    shutil.rmtree(folder, ignore_errors=True)
    begin(case, whole)
    start = time.monotonic()
    run(filled(case.command, whole))
    seconds = time.monotonic() - start
    while done < case.kills:
        begin(case, out)
        problems, rows = [], []
        for number in range(min(case.in_a_row, case.kills - done)):
            chance = random.Random(f"{name} {done + number}")
            on_writing = (done + number) % 2 == 1
            after = chance.uniform(0, 0.01) if on_writing else chance.uniform(0.1, 1) * seconds
            hit = killed(filled(case.command, out), out.parent, after, on_writing)
            left = len(unfinished(out.parent))
            problems += compared(case, out, whole, partly=True)
            kill = "while writing" if on_writing else "at random"
            rows.append({"kill": kill, "after": round(after, 3), "hit": hit, "unfinished": left})
        if case.grows or case.start or not out.exists():  # commands refuse to overwrite a complete output
            run(filled(case.command, out))
        problems += compared(case, out, whole, partly=False)
        for row in rows:
            done += 1
            results.append(output, {"system": name, "number": done, "seed": 1, **row, "problems": problems, **results.provenance()})
            print(json.dumps({"system": name, **row, "problems": problems}), flush=True)


def begin(case: Case, out: Path) -> None:
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir(parents=True)
    if case.start:
        shutil.copytree(case.start, out)
    elif case.grows:
        out.mkdir()


def filled(command: list, out: Path) -> list[str]:
    return [str(part).replace("{out}", str(out)) for part in command]


if __name__ == "__main__":
    main()
