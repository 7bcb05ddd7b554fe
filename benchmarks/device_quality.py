"""The loss in BLEU by export and rounding, and the speed and memory of exported models as commands.

    python benchmarks/device_quality.py DATA NAME=CHECKPOINT …

DATA is a corpus of the recipe, with the folder of recordings that its manifests come from; checkpoints are of translation. Those
of docs/quality.md are `runs/st/SYSTEM/SEED/checkpoint_best.pt`, DATA `hard/en-de`. For each system and precision a row of
results/device_quality.jsonl: BLEU of the test sets, the share of texts equal to those of fairseq-generate (one sentence per batch:
padding affects shorter sentences of a batch), times real time on one thread, seconds of `residual-st translate` for four seconds
of speech, including its start, and the increase of a process's memory over 500 recordings.
"""

import argparse
import io
import logging
import re
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from training_runs.counts import counted

from residual_st.audio.reading import read_audio
from residual_st.benchmark import results
from residual_st.benchmark.process_memory import ProcessMemory
from residual_st.cli import main as residual_st
from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import corpus_scores
from residual_st.export import PRECISIONS
from residual_st.fairseq.manifest import read_manifest
from residual_st.progress import progress, show_progress
from residual_st.runtime import Settings
from residual_st.runtime.model import Model

sys.path.append(str(Path(__file__).parents[1] / "examples" / "must_c"))
from must_c import read_talks  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "device_quality.jsonl"
SPEECH = Path(__file__).parents[1] / "tests" / "speech" / "arctic_a0007.wav"
TEST_SETS = ("tst-COMMON", "tst-HE")
MANY = 500  # recordings


@dataclass(frozen=True)
class Test:
    """A test set: utterances at 16 kHz and their references, in the manifest's order."""

    name: str
    samples: list[np.ndarray]
    references: list[str]


def read_test(data: Path, name: str) -> Test:
    by_id = {
        segment.id: read_audio(talk.wav, 16_000)[segment.start : segment.start + segment.length]
        for talk in read_talks(data, "de", name)
        for segment in talk.segments
    }
    rows = read_manifest(data / f"{name}_st.tsv")
    return Test(name, [by_id[row["id"]] for row in rows], [row["tgt_text"] for row in rows])


def generated(checkpoint: Path, data: Path, test: Test) -> list[str]:
    """Texts of fairseq-generate, in the manifest's order."""
    command = [str(Path(sys.executable).with_name("fairseq-generate")), str(data), "--user-dir", "residual_st", "--cpu"]
    command += ["--task", "speech_to_text", "--config-yaml", "config_st.yaml", "--gen-subset", f"{test.name}_st"]
    command += ["--path", str(checkpoint), "--beam", "5", "--batch-size", "1"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    texts = {int(match[1]): match[2] for match in re.finditer(r"^D-(\d+)\t\S+\t(.*)$", shown, re.MULTILINE)}
    return [texts[number] for number in range(len(test.samples))]


def start_up(folder: Path) -> float:
    """Seconds of the whole command `residual-st translate` for a recording of four seconds."""
    command = [sys.executable, "-m", "residual_st", "translate", str(folder), str(SPEECH)]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return sorted(times)[2]


def measure(folder: Path, tests: list[Test], expected: list[str]) -> dict:
    model = Model(folder)
    samples = [each for test in tests for each in test.samples]
    references = [each for test in tests for each in test.references]
    start, texts = time.perf_counter(), []
    for each in progress(samples, desc=folder.name, unit="utterance"):
        texts.append(model.vocabulary.text(model.search([each], Settings())[0][0].tokens))
    seconds = time.perf_counter() - start
    memory = ProcessMemory()
    for number in range(MANY):
        model.search([samples[number % len(samples)]], Settings(beam=1))
    sentences, fairseqs = ([Sentence(*pair) for pair in zip(references, each)] for each in (texts, expected))
    return {
        "bytes": sum(file["bytes"] for file in model.folder.description["files"].values()),
        "bleu": round(corpus_scores(sentences)["bleu"], 2),
        **counted("bleu", sentences),
        "fairseq_bleu": round(corpus_scores(fairseqs)["bleu"], 2),
        "same_texts": round(sum(text == reference for text, reference in zip(texts, expected, strict=True)) / len(texts), 4),
        "times_real_time": round(sum(map(len, samples)) / 16_000 / seconds, 1),
        "more_bytes_after_500": memory.read()["steady_bytes"],
        "seconds_to_start": round(start_up(folder), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    show_progress()
    tests = [read_test(args.data, name) for name in TEST_SETS]
    for name, checkpoint in (each.rsplit("=", 1) for each in args.models):
        expected = None
        for precision in PRECISIONS:
            case = {"benchmark": "device_quality", "system": name, "precision": precision, "seed": 1}
            if any(row.items() >= case.items() for row in results.read(args.output)):
                continue
            expected = expected or [text for test in tests for text in generated(Path(checkpoint), args.data, test)]
            with tempfile.TemporaryDirectory() as work, redirect_stdout(io.StringIO()):
                folder = Path(work) / precision
                command = ["export", checkpoint, "--data", str(args.data), "--output", str(folder), "--precision", precision]
                if residual_st([*command, "--check", str(SPEECH)]):
                    raise SystemExit(f"{checkpoint} was not exported")
                row = measure(folder, tests, expected)
            results.append(args.output, {**case, **row, **results.provenance()})


if __name__ == "__main__":
    main()
