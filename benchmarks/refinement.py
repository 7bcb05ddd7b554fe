"""The quality recovered by refinement, against its time.

    python benchmarks/refinement.py DENSE DATA SYSTEM … [--updates N …] [--seconds S]

DENSE is a Hugging Face folder of Whisper. A SYSTEM is an output folder of `residual-st compress` without refinement, or is made
first: `compressed-0.6` in the form with the lowest loss, `shared-0.6` with two layers per shared matrix. DATA is

- a corpus in MuST-C's layout, whose training audio is used without labels, and whose test sets are transcribed: word error rates
  as in real_models.py; or
- a folder with `references.tsv` (language, name, English) and LANGUAGE/NAME.wav: every second sentence is translated into English
  for testing, and the other recordings are used for calibration and refinement.

Each system is refined with each number of updates, the fewest first and always from the unrefined model, since the learning rate
falls to 0 at the last update. A row of results/refinement.jsonl is appended after each run. Its `seconds` and `core_seconds` are
those of the updates, including the choice of their learning rate. No run starts that would end later than `--seconds`.
RESIDUAL_ST_DEVICE selects the device, by default a GPU if available.
"""

import argparse
import copy
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from human_speech import MOST_WORDS, RATE, InTransformers, utterances, word_errors
from real_models import BATCHES, REFINE_BATCHES
from sacrebleu.metrics import BLEU
from torch import nn

from residual_st.audio.reading import read_audio
from residual_st.benchmark import results
from residual_st.compression import Calibration, CompressionConfig, compress
from residual_st.compression.refinement import refine
from residual_st.files import read_lines
from residual_st.huggingface import audio_calibration, load
from residual_st.huggingface.calibration import HeldOut
from residual_st.huggingface.generation import greedy_words
from residual_st.languages import Direction
from residual_st.progress import progress, say, show_progress
from residual_st.sharing import matrix_parameters
from residual_st.stacks import stack_of

RESULTS = Path(__file__).parent / "results" / "refinement.jsonl"
TOGETHER = {"cpu": 12, "cuda": 64}  # utterances per batch of scoring
UPDATES = (250, 1000, 4000)
GROUP_SIZES = {"compressed": None, "shared": 2}


def device() -> str:
    return os.environ.get("RESIDUAL_ST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Material:
    """Data for refinement and testing.

    Attributes:
        score: returns the scores of a model for its row.
    """

    calibration: Calibration
    held_out: HeldOut
    score: Callable[[nn.Module], dict]


def recognition(model: nn.Module, dense: Path, corpus: Path) -> Material:
    calibration, held_out = audio_calibration(model, dense, corpus / "data" / "train" / "wav", BATCHES, 1, REFINE_BATCHES)
    test = utterances(corpus)

    def score(model: nn.Module) -> dict:
        texts = transcripts(InTransformers(model, dense), [samples for samples, _ in test])
        return word_errors([text for _, text in test], texts)

    return Material(calibration, held_out, score)


def transcripts(whisper: InTransformers, recordings: list, **options: str) -> list[str]:
    texts, size = [], TOGETHER[whisper.model.device.type]
    for start in progress(range(0, len(recordings), size), desc="scoring", unit="batch"):
        inputs = whisper.features(recordings[start : start + size]).to(whisper.model.device, whisper.model.dtype)
        words, _ = greedy_words(whisper.model, {"input_features": inputs}, MOST_WORDS, **options)
        texts += whisper.tokenizer.batch_decode(words, skip_special_tokens=True)
    return texts


def translation(model: nn.Module, dense: Path, folder: Path) -> Material:
    rows = [line.split("\t") for line in read_lines(folder / "references.tsv")[1:]]
    languages, test = sorted({language for language, _, _ in rows}), rows[::2]
    kept = {(language, name) for language, name, _ in test}
    with tempfile.TemporaryDirectory() as audio:
        for path in folder.glob("*/*"):
            if (path.parent.name, path.stem) not in kept:
                link = Path(audio) / path.relative_to(folder)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(path.resolve())
        direction = Direction(task="translate")
        calibration, held_out = audio_calibration(model, dense, Path(audio), BATCHES, 1, REFINE_BATCHES, direction)

    def score(model: nn.Module) -> dict:
        scores, whisper = {}, InTransformers(model, dense)
        for language in languages:
            sentences = [(name, text) for sentence_language, name, text in test if sentence_language == language]
            recordings = [read_audio(next((folder / language).glob(f"{name}.*")), RATE) for name, _ in sentences]
            texts = transcripts(whisper, recordings, language=language, task="translate")
            bleu = BLEU(lowercase=True).corpus_score(texts, [[text for _, text in sentences]])
            scores[f"bleu_{language}"] = round(bleu.score, 2)
        return {"bleu": round(sum(scores.values()) / len(scores), 2), **scores}

    return Material(calibration, held_out, score)


def compressed(system: str, folder: Path, dense: nn.Module, material: Material) -> nn.Module:
    """The system before refinement."""
    if Path(system).is_dir():
        return load(system).to(dense.device).float()
    form, _, size = Path(system).name.rpartition("-")
    model = load(folder).to(dense.device).float()
    compress(model, CompressionConfig(weight_fraction=float(size), group_size=GROUP_SIZES[form]), calibration=material.calibration)
    return model


def refined(dense: nn.Module, start: nn.Module, calibration: Calibration, updates: int) -> tuple[nn.Module, dict]:
    """A refined copy of a compressed model, with its times and size."""
    model = copy.deepcopy(start)
    stack, began, core_began = stack_of(model), time.perf_counter(), time.process_time()
    if updates:
        refine((dense, stack_of(dense)), (model, stack), stack.shared_weights, calibration, updates)
    return model, {
        "seconds": round(time.perf_counter() - began, 2),
        "core_seconds": round(time.process_time() - core_began, 2),
        "kept": round(matrix_parameters(stack.layers) / matrix_parameters(stack_of(dense).layers), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("dense", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("systems", nargs="+", metavar="system")
    parser.add_argument("--updates", nargs="+", type=int, default=UPDATES, metavar="N")
    parser.add_argument("--seconds", type=float, default=math.inf, metavar="S", help="start no run that would end later")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    show_progress()
    began = time.perf_counter()
    dense = load(args.dense).to(device()).float()
    make = translation if (args.data / "references.tsv").exists() else recognition
    material = make(dense, args.dense, args.data)
    common = {"model": args.dense.name, "seed": 1, "dense_loss": material.held_out.likelihood(dense)["loss"]}

    def append(system: str, updates: int, model: nn.Module, figures: dict) -> None:
        case = {"system": system, **common, "updates": updates, **figures, **material.held_out.likelihood(model)}
        ended = {"ended": round(time.perf_counter() - began)}
        results.append(args.output, {**case, **material.score(model), **ended, **results.provenance()})

    append("dense", 0, dense, {"kept": 1.0})
    starts = {Path(system).name: compressed(system, args.dense, dense, material) for system in args.systems}
    seconds_per_update = 0.0  # seconds, including the choice of a learning rate and scoring
    for updates in (0, *sorted(args.updates)):
        for system, model in starts.items():
            start = time.perf_counter()
            if start - began + updates * seconds_per_update > args.seconds:
                say(f"{system}: {updates} updates would end after {args.seconds:g} s and are skipped")
                continue
            append(system, updates, *refined(dense, model, material.calibration, updates))
            if updates:
                seconds_per_update = (time.perf_counter() - start) / updates


if __name__ == "__main__":
    main()
