"""What compression costs a model that translates: Whisper base on Spanish, French and Italian telephone prompts.

    python benchmarks/translation.py WHISPER PROMPTS [--systems NAME …] [--untranslated]

WHISPER is a Hugging Face folder of a multilingual Whisper; PROMPTS has audio in folders named by language and English texts in
`references.tsv` (language, name, English). Prompts are in two halves by their names, the same in every language: models are
calibrated on the audio of one half, without its texts, and tested on the other. The voices are the same in both.

A system's loss is of the dense model's own translations of half minutes of tested audio, over the dense model's. BLEU and chrF are
of tested sentences, one by one, greedy, through transformers' generate, in lower case; the encoder computes in bfloat16 there.
One row for each system is appended to results/translation.jsonl as it is finished; rows that are there already are not made again.
A row has counts of each sentence, no texts. `core_seconds` is what compression took, transcribing the audio included, and scoring
not.
"""

import argparse
import csv
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path

import numpy as np
import real_models
import torch
from sacrebleu.metrics import CHRF
from torch import Tensor, nn

from residual_st.audio.reading import read_audio
from residual_st.benchmark import results
from residual_st.compression import Calibration, compress
from residual_st.compression.allocation import Spectrum, allocate
from residual_st.compression.layer_weights import Metric
from residual_st.compression.moments import gather
from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import bleu, ngram_counts
from residual_st.huggingface import audio_calibration, load
from residual_st.huggingface.calibration import HeldOut
from residual_st.huggingface.generation import greedy_words
from residual_st.languages import Direction
from residual_st.progress import progress, show_progress
from residual_st.sharing import matrices, matrix_parameters
from residual_st.stacks import stack_of

RESULTS = Path(__file__).parent / "results" / "translation.jsonl"
LANGUAGES = ("es", "fr", "it")
CALIBRATED, TESTED = 0, 1  # halves
BATCHES, TEST_BATCHES = 15, 9  # of half a minute, of all languages together
SIZES = (0.75, 0.6, 0.45, 0.3)
BATCH = 8  # prompts that are translated together
RATE = 16_000


def half_of(name: str) -> int:
    return zlib.crc32(name.encode()) // 2 % 2


def windows(
    model: nn.Module, whisper: Path, prompts: Path, languages: tuple[str, ...], half: int, batches: int
) -> tuple[Calibration, HeldOut]:
    """`audio_calibration` on one half of some languages' prompts, with the model's translations of them."""
    with tempfile.TemporaryDirectory() as folder:
        for path in chain.from_iterable((prompts / language).iterdir() for language in languages):
            if half_of(path.stem) == half:
                target = Path(folder) / path.parent.name / path.name
                target.parent.mkdir(exist_ok=True)
                target.symlink_to(path.resolve())
        return audio_calibration(model, whisper, Path(folder), batches, 1, asked=Direction(task="translate"))


class Material:
    """What several systems are made from; `seconds` is what a core took to transcribe the audio and to gather moments.

    Attributes:
        calibration: of audio in some languages.
        moments: of the dense encoder's matrices.
    """

    def __init__(self, whisper: Path, prompts: Path, languages: tuple[str, ...]):
        start, model = time.process_time(), load(whisper)
        self.calibration, _ = windows(model, whisper, prompts, languages, CALIBRATED, BATCHES)
        self.moments = gather(model, stack_of(model), self.calibration)
        self.seconds = time.process_time() - start


class Test:
    """What all systems are tested on.

    Attributes:
        held_out: language -> half minutes of audio with the dense model's translations.
        sentences: language -> (samples, English) of each.
        dense_loss: language -> the dense model's loss on what is held out.
    """

    def __init__(self, whisper: Path, prompts: Path):
        self._whisper, model = whisper, load(whisper)
        self.held_out, self.sentences = {}, {}
        with open(prompts / "references.tsv", encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if half_of(row["name"]) == TESTED]
        for language in LANGUAGES:
            calibration, held_out = windows(model, whisper, prompts, (language,), TESTED, TEST_BATCHES // len(LANGUAGES) - 1)
            self.held_out[language] = HeldOut([*calibration.batches, *held_out.batches], held_out.own)
            its_rows = [row for row in rows if row["language"] == language]
            read = [read_audio(prompts / language / f"{row['name']}.wav", RATE) for row in its_rows]
            self.sentences[language] = [(samples, row["english"]) for samples, row in zip(read, its_rows)]
        self.dense_loss = self.losses(model)

    def losses(self, model: nn.Module) -> dict[str, float]:
        return {language: held_out.likelihood(model)["loss"] for language, held_out in self.held_out.items()}

    def scores(self, model: nn.Module) -> dict:
        """BLEU with the counts that it is of, and chrF with half of its 95 % interval, as sacreBLEU has them, by language."""
        found = {}
        for language, sentences in self.sentences.items():
            texts = translations(model, self._whisper, language, [samples for samples, _ in sentences])
            pairs = [Sentence(english.lower().strip(), text.lower().strip()) for (_, english), text in zip(sentences, texts)]
            counts = ngram_counts(pairs)
            chrf = CHRF().corpus_score([pair.hypothesis for pair in pairs], [[pair.reference for pair in pairs]], n_bootstrap=1000)
            figures = {"bleu": bleu(counts.sum(0)), "chrf": chrf.score, "chrf_interval": chrf._ci}
            found[language] = {name: round(float(value), 2) for name, value in figures.items()} | {
                "counts": counts.astype(int).tolist()
            }
        return found


@torch.no_grad()
def translations(model: nn.Module, whisper: Path, language: str, utterances: list[np.ndarray]) -> list[str]:
    import transformers  # behind residual_st.huggingface, which hides a torchaudio that does not load

    extractor = transformers.AutoFeatureExtractor.from_pretrained(whisper)
    tokenizer = transformers.AutoTokenizer.from_pretrained(whisper)
    order, texts = sorted(range(len(utterances)), key=lambda index: len(utterances[index])), {}
    for start in progress(range(0, len(order), BATCH), desc=f"translating {language}", unit="batch"):
        chosen = order[start : start + BATCH]  # of like length: a batch is as slow as its longest text
        features = extractor([utterances[index] for index in chosen], sampling_rate=RATE, return_tensors="pt").input_features
        with torch.autocast("cpu", torch.bfloat16):
            states = model.get_encoder()(features).last_hidden_state.float()
        inputs = {"encoder_outputs": transformers.modeling_outputs.BaseModelOutput(states)}
        words, _ = greedy_words(model, inputs, model.config.max_target_positions, language=language, task="translate")
        texts |= zip(chosen, tokenizer.batch_decode(words, skip_special_tokens=True))
    return [texts[index] for index in range(len(utterances))]


def whole(model: nn.Module, material: Material, encoder: float, decoder: float) -> dict:
    """Encoder and decoder, one after the other."""
    made = real_models.compressed(model, material, weight_fraction=encoder)
    calibration = replace(material.calibration, encode=material.calibration.predict)
    result = compress(model, stack=stack_of(model, "decoder"), calibration=calibration, weight_fraction=decoder)
    return {**made, "decoder_ranks": str(result.form.ranks)}


@torch.no_grad()
def in_one_basis(model: nn.Module, material: Material, weight_fraction: float, group_size: int) -> dict:
    """Basis Sharing (Wang et al., arXiv 2410.03765): adjacent layers have one basis for each kind of matrix, and thin coefficients.

    `W[l] = P C[l]`, or `C[l] P` where the inputs are the longer side, by the same metric and budget as everything here; not
    corrected. With groups of one this is low rank. The model keeps dense weights of that rank; what they would take is returned.
    """
    layers = stack_of(model).layers
    groups = [range(start, min(start + group_size, len(layers))) for start in range(0, len(layers), group_size)]
    kinds = [(group, name) for group in groups for name, _ in matrices(layers[0])]
    shared = [_basis(layers, material.moments, group, name) for group, name in kinds]
    ranks = allocate([spectrum for spectrum, _ in shared], int(weight_fraction * matrix_parameters(layers)))
    for (group, name), (_, in_basis), rank in zip(kinds, shared, ranks):
        for index, weight in zip(group, in_basis(rank)):
            linear = layers[index].get_submodule(name)
            if linear.bias is not None:
                linear.bias.add_((linear.weight.double() - weight) @ material.moments[index][name].input_mean)
            linear.weight.copy_(weight)
    kept = sum(
        spectrum.whole if rank == len(spectrum.energies) else rank * spectrum.cost for (spectrum, _), rank in zip(shared, ranks)
    )
    return {"ranks": str(ranks), "kept_encoder": round(kept / matrix_parameters(layers), 4)}


def _basis(layers: nn.ModuleList, moments: list, group: range, name: str) -> tuple[Spectrum, Callable]:
    """What each rank of a basis wins, and the weights of a group's layers in the leading directions of it, from the rank."""
    weights = [layers[index].get_submodule(name).weight.double() for index in group]
    metrics = [moments[index][name].metric() for index in group]
    rows, columns = weights[0].shape
    if columns > rows:  # the inputs are in one basis
        weights = [weight.T for weight in weights]
        metrics = [Metric(metric.outputs, metric.inputs) for metric in metrics]
    common = torch.linalg.cholesky(sum(metric.outputs for metric in metrics) / len(metrics))
    own = [torch.linalg.cholesky(metric.inputs) for metric in metrics]
    white = torch.cat([common.T @ weight @ root for weight, root in zip(weights, own)], dim=1)
    squares, vectors = torch.linalg.eigh(white @ white.T)
    cost = max(rows, columns) + len(group) * min(rows, columns)

    def in_basis(rank: int) -> list[Tensor]:
        if rank == len(squares):
            found = weights
        else:
            basis = torch.linalg.solve_triangular(common.T, vectors[:, -rank:], upper=True)
            found = [basis @ (vectors[:, -rank:].T @ common.T @ weight) for weight in weights]
        return [weight.T for weight in found] if columns > rows else found

    return Spectrum(squares.flip(0).clamp_min(0), cost, len(group) * rows * columns), in_basis


@dataclass(frozen=True)
class System:
    """What makes a model smaller, in place, and the languages of the audio that it is given for that."""

    make: Callable[[nn.Module, Material], dict]
    languages: tuple[str, ...] = LANGUAGES


def systems() -> dict[str, System]:
    made = {"dense": System(real_models.dense)}
    for size in SIZES:
        compressed = partial(real_models.compressed, weight_fraction=size)
        made[f"compressed-{size}"] = System(compressed)
        made[f"lite-asr-{size}"] = System(partial(real_models.lite_asr, weight_fraction=size))
        made[f"lite-asr-uniform-{size}"] = System(partial(real_models.lite_asr, weight_fraction=size, uniform=True))
        for group_size in (1, 2, 3, 6):
            made[f"basis-{group_size}-{size}"] = System(partial(in_one_basis, weight_fraction=size, group_size=group_size))
        for group_size in (2, 3, 6):
            made[f"shared-{group_size}-{size}"] = System(partial(compressed, group_size=group_size, correct=False))
        for language in LANGUAGES:
            made[f"compressed-{size}-on-{language}"] = System(compressed, (language,))
    return made


def parameters(model: nn.Module) -> dict[str, int]:
    """Of the matrices of the encoder's and the decoder's layers, and of the whole model."""
    kept = {part: matrix_parameters(stack_of(model, part).layers) for part in ("encoder", "decoder")}
    return {**kept, "model": sum(parameter.numel() for parameter in model.parameters())}


def row_of(name: str, system: System, whisper: Path, test: Test, materials: Callable, translated: bool) -> dict:
    material, model = materials(system.languages), load(whisper)
    dense, start = parameters(model), time.process_time()
    made = system.make(model, material)
    kept = {part: round(count / dense[part], 4) for part, count in parameters(model).items()}
    if "kept_encoder" in made:  # of weights that are composed here
        kept = {
            **kept,
            "encoder": made["kept_encoder"],
            "model": round(1 - (1 - made["kept_encoder"]) * dense["encoder"] / dense["model"], 4),
        }
    return {
        "system": name,
        "seed": 1,
        "languages": system.languages,
        "core_seconds": round(time.process_time() - start + material.seconds),
        "kept": kept,
        "loss_ratio": {
            language: round(float(loss / test.dense_loss[language]), 4) for language, loss in test.losses(model).items()
        },
        "scores": test.scores(model) if translated else {},
        **made,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("whisper", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--systems", nargs="+", choices=systems(), default=list(systems()), metavar="NAME")
    parser.add_argument("--untranslated", action="store_true", help="losses alone")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    show_progress()
    test = Test(args.whisper, args.prompts)
    materials = cache(partial(Material, args.whisper, args.prompts))
    for name in args.systems:
        if any(row["system"] == name for row in results.read(args.output)):
            continue
        row = row_of(name, systems()[name], args.whisper, test, materials, not args.untranslated)
        results.append(args.output, {**row, **results.provenance()})


if __name__ == "__main__":
    main()
