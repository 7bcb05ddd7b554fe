"""What export and int8 cost in BLEU, and how exported models fare as commands: dense and residual models of the synthetic demo.

    make demo && make demo ARGS=--dense && python benchmarks/device_quality.py [--demo demo]

For each system and precision a row of results/device_quality.jsonl: BLEU of tst-COMMON, the share of texts that fairseq-generate
writes, too (one sentence a batch: padding reaches into shorter sentences of a batch), times real time on one thread, seconds that
`residual-st translate` takes for four seconds of speech, start and end included, and what 500 recordings add to a process's memory.
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
from pathlib import Path

import sacrebleu

from residual_st.audio import read_audio
from residual_st.benchmark import results
from residual_st.benchmark.process_memory import ProcessMemory
from residual_st.cli import main as residual_st
from residual_st.progress import progress, show_progress
from residual_st.runtime import Settings
from residual_st.runtime.model import Model

sys.path.append(str(Path(__file__).parents[1] / "examples" / "must_c"))
from must_c import read_talks  # noqa: E402 - of the recipe, which is no package

RESULTS = Path(__file__).parent / "results" / "device_quality.jsonl"
SPEECH = Path(__file__).parents[1] / "tests" / "speech" / "arctic_a0007.wav"
SUBSET = "tst-COMMON"
MANY = 500  # recordings
K12 = ["--group-size", "12", "--residual-rank", "8", "--calibration-batches", "30", "--refine-updates", "120"]


def utterances(data: Path) -> dict[str, object]:
    """Utterance id -> samples at 16 kHz."""
    return {
        segment.id: read_audio(talk.wav, 16_000)[segment.start : segment.start + segment.length]
        for talk in read_talks(data, "de", SUBSET)
        for segment in talk.segments
    }


def generated(checkpoint: Path, data: Path) -> list[str]:
    """Texts of fairseq-generate, in the manifest's order."""
    command = [
        str(Path(sys.executable).with_name("fairseq-generate")),
        str(data),
        "--user-dir",
        "residual_st",
        "--cpu",
        "--beam",
        "5",
    ]
    command += ["--task", "speech_to_text", "--config-yaml", "config_st.yaml", "--gen-subset", f"{SUBSET}_st", "--batch-size", "1"]
    shown = subprocess.run([*command, "--path", str(checkpoint)], capture_output=True, text=True, check=True).stdout
    texts = {int(match[1]): match[2] for match in re.finditer(r"^D-(\d+)\t\S+\t(.*)$", shown, re.MULTILINE)}
    return [texts[number] for number in range(len(texts))]


def start_up(folder: Path) -> float:
    """Seconds of `residual-st translate` for a recording of four seconds, from the command to its end."""
    command = [sys.executable, "-m", "residual_st", "translate", str(folder), str(SPEECH)]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return sorted(times)[2]


def measure(folder: Path, samples: list, references: list[str], expected: list[str]) -> dict:
    model = Model(folder)
    start, texts = time.perf_counter(), []
    for each in progress(samples, desc=folder.name, unit="utterance"):
        texts.append(model.vocabulary.text(model.search([each], Settings())[0][0].tokens))
    seconds = time.perf_counter() - start
    memory = ProcessMemory()
    for number in range(MANY):
        model.search([samples[number % len(samples)]], Settings(beam=1))
    return {
        "bytes": sum(file["bytes"] for file in model.folder.description["files"].values()),
        "bleu": round(sacrebleu.corpus_bleu(texts, [references]).score, 2),
        "fairseq_bleu": round(sacrebleu.corpus_bleu(expected, [references]).score, 2),
        "same_texts": round(sum(one == other for one, other in zip(texts, expected)) / len(texts), 4),
        "times_real_time": round(sum(map(len, samples)) / 16_000 / seconds, 1),
        "more_bytes_after_500": memory.read()["steady_bytes"],
        "seconds_to_start": round(start_up(folder), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    show_progress()
    data, dense, residual = args.demo / "en-de", args.demo / "dense.pt", args.demo / "residual.pt"
    small = args.demo / "dense_k12.pt"
    if not small.exists():
        residual_st(["compress", str(dense), "--output", str(small), "--calibration", str(data), *K12])
    lines = [line.split("\t") for line in (data / f"{SUBSET}_st.tsv").read_text(encoding="utf-8").splitlines()]
    text, by_name = lines[0].index("tgt_text"), utterances(data)
    samples, references = [by_name[line[0]] for line in lines[1:]], [line[text] for line in lines[1:]]
    for name, checkpoint in {"dense": dense, "residual, K=3, R=8": residual, "compressed, K=12, R=8": small}.items():
        expected = None
        for precision in ("fp32", "int8"):
            case = {"benchmark": "device_quality", "system": name, "precision": precision, "seed": 1}
            if any(row.items() >= case.items() for row in results.read(args.output)):
                continue
            expected = expected or generated(checkpoint, data)
            with tempfile.TemporaryDirectory() as work, redirect_stdout(io.StringIO()):
                folder = Path(work) / precision
                command = ["export", str(checkpoint), "--data", str(data), "--output", str(folder), "--precision", precision]
                if residual_st([*command, "--check", str(SPEECH)]):
                    raise SystemExit(f"{checkpoint} was not exported")
                row = measure(folder, samples, references, expected)
            results.append(args.output, {**case, **row, **results.provenance()})


if __name__ == "__main__":
    main()
