"""The loss of a translation model by compression: Whisper base on Spanish, French and Italian telephone prompts.

    python benchmarks/translation.py WHISPER PROMPTS [--systems NAME …] [--precisions …]

WHISPER is a Hugging Face folder of a multilingual Whisper; PROMPTS has audio in folders named by language and English texts in
`references.tsv` (language, name, English). Two thirds of the prompts that have a text, chosen by name, are for testing; the audio
of all others, without texts, is for calibration and refinement. Both parts have the same voices.

A system's loss is that of the dense model's translations of half minutes of test audio, relative to the dense model's loss. BLEU
and chrF are of test sentences in lower case, translated one at a time by `residual-st translate --beam 1` with the exported model,
which includes the rules of Whisper's authors against repetition. A row per system and precision of its export is appended to
results/translation.jsonl when it is finished; cases that have rows are skipped. A row has counts per sentence, no texts.
`core_seconds` are those of compression, including the transcription of the audio and without scoring; `bytes` are those of the
exported folder.
"""

import argparse
import csv
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path

import real_models
from basis_sharing import in_one_basis
from sacrebleu.metrics import CHRF
from torch import nn

from residual_st import huggingface
from residual_st.audio.reading import read_audio
from residual_st.benchmark import results
from residual_st.compression import Calibration, CompressionConfig, compress, fractions_of_parts
from residual_st.compression.moments import gather
from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import bleu, ngram_counts
from residual_st.export import PRECISIONS
from residual_st.export.whisper_model import export_whisper
from residual_st.huggingface.calibration import HeldOut
from residual_st.languages import Direction
from residual_st.progress import progress, show_progress
from residual_st.runtime import Settings, Translator
from residual_st.sharing import LowRankLinear, matrices, matrix_parameters
from residual_st.stacks import stack_of

RESULTS = Path(__file__).parent / "results" / "translation.jsonl"
LANGUAGES = ("es", "fr", "it")
BATCHES, MORE_BATCHES, TEST_BATCHES = 24, 16, 9  # half-minutes over all languages; refinement uses more if available
SIZES = (0.75, 0.6, 0.45, 0.3)
UPDATES = 500  # of refinement
WHOLE = (0.8, 0.65)  # of encoder and decoder together
RATE = 16_000


@dataclass(frozen=True)
class Prompts:
    """A folder of prompts, split into two parts.

    Attributes:
        tested: (language, name) -> English.
    """

    folder: Path
    tested: dict[tuple[str, str], str]

    @classmethod
    def read(cls, folder: Path) -> "Prompts":
        with open(folder / "references.tsv", encoding="utf-8", newline="") as file:
            rows = [*csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
        tested = [row for row in rows if zlib.crc32(row["name"].encode()) // 2 % 3]
        return cls(folder, {(row["language"], row["name"]): row["english"] for row in tested})

    def windows(
        self, model: nn.Module, whisper: Path, languages: tuple[str, ...], tested: bool, batches: int, more: int = 0
    ) -> tuple[Calibration, HeldOut]:
        """`audio_calibration` on one part of the prompts of some languages, with the model's translations."""
        with tempfile.TemporaryDirectory() as folder:
            for path in chain.from_iterable((self.folder / language).iterdir() for language in languages):
                if ((path.parent.name, path.stem) in self.tested) == tested:
                    target = Path(folder) / path.parent.name / path.name
                    target.parent.mkdir(exist_ok=True)
                    target.symlink_to(path.resolve())
            direction = Direction(task="translate")
            return huggingface.audio_calibration(model, whisper, Path(folder), batches, 1, more, direction)


class Material:
    """Data that several systems share; `seconds` are the core seconds of transcribing the audio and gathering moments.

    Attributes:
        calibration: on audio in some languages.
        moments: of the dense encoder's matrices.
    """

    def __init__(self, whisper: Path, prompts: Prompts, languages: tuple[str, ...]):
        start, model = time.process_time(), huggingface.load(whisper)
        self.calibration, _ = prompts.windows(model, whisper, languages, False, BATCHES, MORE_BATCHES)
        self.moments = gather(model, stack_of(model), self.calibration)
        self.seconds = time.process_time() - start


class Test:
    """Test data of all systems.

    Attributes:
        held_out: language -> half minutes of audio with the dense model's translations.
        sentences: language -> (samples, English) of each.
        dense_loss: language -> the dense model's loss on the held-out audio.
    """

    def __init__(self, whisper: Path, prompts: Prompts):
        model, self.held_out, self.sentences = huggingface.load(whisper), {}, {}
        for language in LANGUAGES:
            calibration, held_out = prompts.windows(model, whisper, (language,), True, TEST_BATCHES // len(LANGUAGES) - 1)
            self.held_out[language] = HeldOut([*calibration.batches, *held_out.batches], held_out.own_words)
            named = [(name, english) for (prompt_language, name), english in prompts.tested.items() if prompt_language == language]
            self.sentences[language] = [
                (read_audio(prompts.folder / language / f"{name}.wav", RATE), english) for name, english in named
            ]
        self.dense_loss = self.losses(model)

    def losses(self, model: nn.Module) -> dict[str, float]:
        return {language: held_out.likelihood(model)["loss"] for language, held_out in self.held_out.items()}

    def scores(self, exported: Path) -> dict:
        """sacreBLEU's BLEU with its counts, and chrF with half of its 95 % interval, by language."""
        scores = {}
        for language, sentences in self.sentences.items():
            translator = Translator(exported, Settings(beam=1), task="translate", source_lang=language)
            texts = [
                translator.translate(samples).text
                for samples, _ in progress(sentences, desc=f"translating {language}", unit="sentence")
            ]
            pairs = [Sentence(english.lower().strip(), text.lower().strip()) for (_, english), text in zip(sentences, texts)]
            counts = ngram_counts(pairs)
            chrf = CHRF().corpus_score([pair.hypothesis for pair in pairs], [[pair.reference for pair in pairs]], n_bootstrap=1000)
            figures = {"bleu": bleu(counts.sum(0)), "chrf": chrf.score, "chrf_interval": chrf._ci}
            scores[language] = {name: round(float(value), 2) for name, value in figures.items()} | {
                "counts": counts.astype(int).tolist()
            }
        return scores


def whole(model: nn.Module, material: Material, weight_fraction: float) -> dict:
    """Encoder and decoder with one budget, compressed one after the other."""
    stacks = {part: stack_of(model, part) for part in ("encoder", "decoder")}
    fractions, moments = fractions_of_parts(model, stacks, material.calibration, weight_fraction)
    calibrations = {"encoder": material.calibration, "decoder": replace(material.calibration, encode=material.calibration.predict)}
    return {
        f"{part}_ranks": str(
            compress(
                model,
                CompressionConfig(weight_fraction=fractions[part]),
                stack=stack_of(model, part),
                calibration=calibrations[part],
                moments=moments[part],
            ).form.ranks
        )
        for part in stacks
    }


def one_basis(model: nn.Module, material: Material, **options) -> dict:
    return in_one_basis(stack_of(model).layers, material.moments, **options)


def lite_asr(model: nn.Module, material: Material, **options) -> dict:
    """LiteASR with composed weights, because a folder has one form for all layers, and here only some layers factor a matrix."""
    layers = stack_of(model).layers
    dense = matrix_parameters(layers)
    made = real_models.lite_asr(model, material, **options)
    kept = matrix_parameters(layers) / dense
    for layer in layers:
        for name, matrix in [*matrices(layer)]:
            if isinstance(matrix, LowRankLinear):
                layer.set_submodule(name, matrix.to_dense())
    return {**made, "kept_encoder": round(kept, 4)}


@dataclass(frozen=True)
class System:
    """A function that compresses a model in place, the languages of its calibration audio, and the exports to score."""

    make: Callable[[nn.Module, Material], dict]
    languages: tuple[str, ...] = LANGUAGES
    precisions: tuple[str, ...] = ("fp32",)


def systems() -> dict[str, System]:
    made = {"dense": System(real_models.dense, precisions=PRECISIONS)}
    for size in SIZES:
        compressed = partial(real_models.compressed, weight_fraction=size)
        made[f"compressed-{size}"] = System(compressed, precisions=PRECISIONS)
        refined = partial(compressed, refine_updates=UPDATES)
        made[f"compressed-{size}-refined"] = System(refined, precisions=("fp32", "int8"))
        made[f"lite-asr-{size}"] = System(partial(lite_asr, weight_fraction=size))
        made[f"lite-asr-uniform-{size}"] = System(partial(lite_asr, weight_fraction=size, uniform=True))
        for group_size in (1, 2, 3, 6):
            made[f"basis-{group_size}-{size}"] = System(partial(one_basis, weight_fraction=size, group_size=group_size))
        for group_size in (2, 3, 6):
            made[f"shared-{group_size}-{size}"] = System(partial(compressed, group_size=group_size, correct=False))
        for language in LANGUAGES:
            made[f"compressed-{size}-on-{language}"] = System(compressed, (language,))
    for size in WHOLE:
        made[f"whole-{size}"] = System(partial(whole, weight_fraction=size), precisions=PRECISIONS)
    return made


def parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of weights: matrices of encoder layers, matrices of decoder layers, and the whole model."""
    kept = {part: matrix_parameters(stack_of(model, part).layers) for part in ("encoder", "decoder")}
    return {**kept, "model": sum(parameter.numel() for parameter in model.parameters())}


def kept_of(model: nn.Module, dense: dict[str, int], encoder: float | None) -> dict[str, float]:
    """Kept fractions. `encoder` is the number of factored weights if the model keeps them composed."""
    kept = {part: count / dense[part] for part, count in parameters(model).items()}
    if encoder is not None:
        kept |= {"encoder": encoder, "model": 1 - (1 - encoder) * dense["encoder"] / dense["model"]}
    return {part: round(fraction, 4) for part, fraction in kept.items()}


def exported_scores(model: nn.Module, whisper: Path, precision: str, test: Test) -> dict:
    with tempfile.TemporaryDirectory() as work:
        folder, exported = Path(work) / "model", Path(work) / "exported"
        huggingface.save(model, folder, whisper)
        exported.mkdir()
        described = export_whisper(folder, exported, precision)
        return {"bytes": sum(file["bytes"] for file in described["files"].values()), "scores": test.scores(exported)}


def rows_of(name: str, system: System, precisions: list[str], whisper: Path, test: Test, materials: Callable) -> Iterator[dict]:
    """A row per precision."""
    material, model = materials(system.languages), huggingface.load(whisper)
    dense, start = parameters(model), time.process_time()
    made = system.make(model, material)
    row = {
        "system": name,
        "seed": 1,
        "languages": system.languages,
        "core_seconds": round(time.process_time() - start + material.seconds),
        "kept": kept_of(model, dense, made.get("kept_encoder")),
        "loss_ratio": {
            language: round(float(loss / test.dense_loss[language]), 4) for language, loss in test.losses(model).items()
        },
        **made,
    }
    for precision in precisions:
        yield {**row, "precision": precision, **exported_scores(model, whisper, precision, test)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("whisper", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--systems", nargs="+", choices=systems(), default=list(systems()), metavar="NAME")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="of exports")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    show_progress()
    prompts = Prompts.read(args.prompts)
    test = Test(args.whisper, prompts)
    materials = cache(partial(Material, args.whisper, prompts))
    for name in args.systems:
        system = systems()[name]
        made = [row["precision"] for row in results.read(args.output) if row["system"] == name]
        selected = [precision for precision in system.precisions if precision in args.precisions and precision not in made]
        for row in rows_of(name, system, selected, args.whisper, test, materials) if selected else ():
            results.append(args.output, {**row, **results.provenance()})


if __name__ == "__main__":
    main()
