"""Whisper tiny.en on a device, dense and compressed, fp32 and int8: bytes, word errors, speed.

    residual-st compress WHISPER --output SMALL --encoder-weight-fraction 0.6 --calibration CORPUS/data/train/wav
    python benchmarks/device_whisper.py CORPUS dense=WHISPER compressed-0.6=SMALL

CORPUS as for real_models.py, whose test is this one's, on tst-HE alone: greedy, normalised as Whisper's authors do. One thread.
Rows go to results/device_whisper.jsonl; `transformers_wer` is of the same model in torch, fp32, by `transformers`.
"""

import argparse
import io
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import editdistance
import real_models
import torch

from residual_st.benchmark import results
from residual_st.cli import main as residual_st
from residual_st.progress import progress, show_progress
from residual_st.runtime import Settings
from residual_st.runtime.folder import ENCODER
from residual_st.runtime.model import Model
from residual_st.transformers import load

RESULTS = Path(__file__).parent / "results" / "device_whisper.jsonl"
TEST_SETS = ("tst-HE",)


def transcripts(model: Model, test: list) -> tuple[list[str], float]:
    """Texts, and times real time."""
    settings = Settings(beam=1, max_len_b=real_models.MOST_WORDS)
    start, texts = time.perf_counter(), []
    for samples, _ in progress(test, desc="scoring", unit="utterance"):
        texts.append(model.vocabulary.text(model.search([samples], settings)[0][0].tokens))
    return texts, sum(len(samples) for samples, _ in test) / 16_000 / (time.perf_counter() - start)


def errors_of(texts: list[str], test: list) -> dict:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normalize = EnglishTextNormalizer({})
    pairs = [(normalize(text).split(), normalize(reference).split()) for text, (_, reference) in zip(texts, test)]
    errors = [min(editdistance.eval(hypothesis, reference), len(reference)) for hypothesis, reference in pairs]
    words = [len(reference) for _, reference in pairs]
    return {"wer": round(100 * sum(errors) / sum(words), 3), "errors": errors, "words": words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    show_progress()
    torch.set_num_threads(1)
    test = real_models.utterances(args.corpus, TEST_SETS)
    for given in args.models:
        name, _, source = given.partition("=")
        for precision in ("fp32", "int8"):
            case = {"benchmark": "device_whisper", "system": name, "precision": precision, "seed": 1}
            if any(row.items() >= case.items() for row in results.read(args.output)):
                continue
            with tempfile.TemporaryDirectory() as work, redirect_stdout(io.StringIO()):
                folder = Path(work) / precision
                if residual_st(["export", source, "--output", str(folder), "--precision", precision]):
                    raise SystemExit(f"{source} was not exported")
                model = Model(folder)
            texts, speed = transcripts(model, test)
            files = model.folder.description["files"]
            row = {"encoder_bytes": files[ENCODER]["bytes"], "bytes": sum(file["bytes"] for file in files.values())}
            row |= {"times_real_time": round(speed, 2), **errors_of(texts, test)}
            if precision == "fp32":
                scored = real_models.score(load(source), Path(source), test)
                row["transformers_wer"] = scored["wer"]
                row["same_errors"] = round(sum(map(int.__eq__, scored["errors"], row["errors"])) / len(test), 4)
            results.append(args.output, {**case, **row, **results.provenance()})


if __name__ == "__main__":
    main()
