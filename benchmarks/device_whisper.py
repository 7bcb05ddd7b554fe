"""Exported Whisper models on human speech, dense and compressed, and alternatives to them: bytes, memory, speed, word errors.

    python benchmarks/device_whisper.py CORPUS dense=WHISPER [NAME=FOLDER …] [--measures words speed]

WHISPER is a Hugging Face folder, which comes first; the other folders are outputs of `residual-st compress`. CORPUS is as in
real_models.py. Greedy search with the model's prompt on one thread. `words` transcribes the test sets. `speed` times the encoder
and the whole transcription of one recording; systems alternate in one process, and no other program may run; ratios are to
transformers, fp32. CTranslate2 (the backend of faster-whisper) is included if installed. Rows go to
results/device_whisper.jsonl; cases that have rows are skipped.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from human_speech import MOST_WORDS, RATE, InTransformers, utterances, word_errors

from residual_st.audio.reading import read_audio
from residual_st.benchmark import results
from residual_st.benchmark.device import measure
from residual_st.benchmark.timing import alternate, ratios_to
from residual_st.export import PRECISIONS
from residual_st.export.whisper_model import export_whisper
from residual_st.huggingface import load
from residual_st.huggingface.generation import prompt_of
from residual_st.progress import progress, show_progress
from residual_st.runtime import Settings
from residual_st.runtime.model import Model

RESULTS = Path(__file__).parent / "results" / "device_whisper.jsonl"
SPEECH = Path(__file__).parents[1] / "tests" / "speech" / "arctic_a0007.wav"
BASE = "transformers, fp32"
GREEDY = Settings(beam=1, max_len_a=0, max_len_b=MOST_WORDS)


class Exported:
    """A folder of `residual-st export`."""

    def __init__(self, folder: Path):
        self.model = Model(folder)

    def encode(self, samples: np.ndarray) -> None:
        self.model.encode([samples])

    def transcribe(self, samples: np.ndarray) -> str:
        best = self.model.search([samples], GREEDY)[0][0]
        return self.model.vocabulary.text(best.tokens)


class InCTranslate2:
    """The dense model, converted by CTranslate2's converter. Features are those of transformers."""

    def __init__(self, whisper: Path, base: InTransformers, work: Path, precision: str):
        import ctranslate2

        folder, kind = work / f"ctranslate2-{precision}", {"fp32": "float32"}.get(precision, precision)
        ctranslate2.converters.TransformersConverter(str(whisper)).convert(str(folder), quantization=kind)
        self.bytes = sum(file.stat().st_size for file in folder.iterdir())
        self._view, self._base = ctranslate2.StorageView.from_array, base
        self._model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type=kind, intra_threads=1)

    def encode(self, samples: np.ndarray):
        return self._model.encode(self._view(self._base.features([samples]).numpy()), to_cpu=True)

    def transcribe(self, samples: np.ndarray) -> str:
        settings = {"beam_size": 1, "max_length": MOST_WORDS, "suppress_blank": False, "suppress_tokens": []}
        (made,) = self._model.generate(self.encode(samples), [prompt_of(self._base.model)], **settings)
        return self._base.tokenizer.decode(made.sequences_ids[0], skip_special_tokens=True)


def systems(folders: dict[str, Path], whisper: Path, work: Path) -> dict[str, object]:
    """Name and precision -> system that transcribes; the base comes first."""
    base = InTransformers(load(whisper), whisper)
    made = {BASE: base, **{name: Exported(folder) for name, folder in folders.items()}}
    try:
        made |= {f"CTranslate2, {precision}": InCTranslate2(whisper, base, work, precision) for precision in ("fp32", "int8")}
    except ImportError:
        logging.warning("CTranslate2 is not installed and is skipped")
    return made


def words(transcribe: Callable, test: list[tuple[np.ndarray, str]], name: str) -> dict:
    transcripts = [transcribe(samples) for samples, _ in progress(test, desc=name, unit="utterance")]
    return word_errors([text for _, text in test], transcripts)


def speeds(made: dict[str, object], repeats: int) -> dict[str, dict]:
    """Rows with the times of the encoder and of the whole transcription for each system except the base."""
    samples, rows = read_audio(SPEECH, RATE), {}
    for part in ("encode", "transcribe"):
        times = alternate({name: partial(getattr(system, part), samples) for name, system in made.items()}, repeats, lambda: None)
        for name, row in ratios_to(BASE, times).items():
            rows.setdefault(name, {}).update({f"{part}_{figure}": value for figure, value in row.items()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--measures", nargs="+", choices=("words", "speed"), default=("speed", "words"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    show_progress()
    models = {name: Path(folder) for name, folder in (each.split("=", 1) for each in args.models)}
    with tempfile.TemporaryDirectory() as work:
        folders = {}
        for name, source in models.items():
            for precision in PRECISIONS:
                folder = Path(work) / f"{name}-{precision}"
                folder.mkdir()
                export_whisper(source, folder, precision, [SPEECH])
                folders[f"{name}, {precision}"] = folder
        made = systems(folders, next(iter(models.values())), Path(work))

        def known(measure: str, name: str) -> bool:
            case = {"measure": measure, "system": name}
            return any(row.items() >= case.items() for row in results.read(args.output))

        def add(measure: str, name: str, row: dict) -> None:
            case = {"benchmark": "device_whisper", "measure": measure, "system": name, "seed": 1}
            results.append(args.output, {**case, **row, **results.provenance()})

        if "speed" in args.measures and not all(known("speed", name) for name in made if name != BASE):
            rows = speeds(made, args.repeats)
            for row in measure(folders, 1, [], args.repeats, None):
                rows[row["system"]] |= row
            for name, row in rows.items():
                add("speed", name, {"file_bytes": getattr(made[name], "bytes", None), **row})
        if "words" in args.measures:
            test = utterances(args.corpus)
            for name, system in made.items():
                if name != BASE and not known("words", name):
                    add("words", name, words(system.transcribe, test, name))


if __name__ == "__main__":
    main()
