"""The loss of a real pretrained model by compression on human speech: Whisper tiny.en on the lines of a game.

    python benchmarks/real_models.py WHISPER CORPUS [--systems NAME …]

WHISPER is a Hugging Face folder of Whisper; CORPUS a corpus in MuST-C's layout (`data/train/wav`, `data/tst-COMMON/…`). Its
training audio is used for calibration and refinement, without labels. Word error rates are those of `human_speech.word_errors` on
tst-COMMON and tst-HE together, with greedy search.

A row per system is appended to results/real_models.jsonl when it is finished; systems that have rows are skipped.
`core_seconds` are those of compression, including the transcription of the audio and without scoring.
"""

import argparse
import copy
import time
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from human_speech import InTransformers, utterances, word_errors
from torch import nn

from residual_st.benchmark import results
from residual_st.compression import CompressionConfig, compress
from residual_st.compression.allocation import lowest_price
from residual_st.compression.moments import gather
from residual_st.compression.refinement import refine
from residual_st.huggingface import audio_calibration, load
from residual_st.progress import progress, show_progress
from residual_st.sharing import LowRankLinear, matrices, matrix_parameters
from residual_st.stacks import stack_of

RESULTS = Path(__file__).parent / "results" / "real_models.jsonl"
BATCHES, REFINE_BATCHES = 24, 130  # half-minutes
BATCH = 12  # utterances per batch of transcription
SIZES = (0.75, 0.6, 0.45)
REFINED = {0.6: 700, 0.45: 700}  # size -> updates


def compressed(model: nn.Module, material: "Material", **options) -> dict:
    result = compress(model, CompressionConfig(**options), calibration=material.calibration, moments=material.moments)
    return {"plan": str(result.form.plan), "ranks": str(result.form.ranks)}


def low_rank(model: nn.Module, material: "Material", weight_fraction: float) -> dict:
    """Low rank without sharing, with ranks by budget, weighted by inputs and gradients, without correction."""
    form = compressed(copy.deepcopy(model), material, weight_fraction=weight_fraction, diagonal=False, correct=False)
    if any("=" not in rank for row in form["ranks"].split(",") for rank in row.split("/")):
        raise SystemExit(f"some matrices share: {form}")
    return compressed(model, material, rank=form["ranks"], diagonal=False, correct=False)


@torch.no_grad()
def lite_asr(model: nn.Module, material: "Material", weight_fraction: float, uniform: bool = False) -> dict:
    """LiteASR (Kamahori et al., arXiv 2502.20583): each matrix is projected onto the principal components of its centred outputs.

    The bias absorbs the mean. Ranks keep an equal share of the variance of each matrix, chosen for the requested size, or with
    `uniform` an equal share of its weights. Matrices whose two factors would not be smaller are kept.
    """
    stack = stack_of(model)
    linears, components = [], []
    for layer, layer_moments in zip(stack.layers, material.moments):
        for name, linear in matrices(layer):
            weight = linear.weight.double()
            values, vectors = torch.linalg.eigh(weight @ layer_moments[name].input_covariance @ weight.T)
            components.append((vectors.flip(1), values.flip(0).clamp_min(0).cumsum(0) / values.clamp_min(0).sum()))
            linears.append((layer, name, linear, layer_moments[name].input_mean))

    def price(linear: nn.Linear, rank: int | None) -> int:
        return linear.weight.numel() if rank is None else rank * (linear.in_features + linear.out_features)

    def ranks(missing: float) -> list[int | None]:
        needed = [int((shares < 1 - missing).sum()) + 1 for _, shares in components]
        return [rank if price(linear, rank) < price(linear, None) else None for rank, (_, _, linear, _) in zip(needed, linears)]

    def parameters(missing: float) -> int:
        return sum(price(linear, rank) for rank, (_, _, linear, _) in zip(ranks(missing), linears))

    if uniform:
        chosen = [int(weight_fraction * price(linear, None) / price(linear, 1)) for _, _, linear, _ in linears]
    else:
        chosen = ranks(min(lowest_price(parameters, int(weight_fraction * matrix_parameters(stack.layers))), 1.0))
    for rank, (layer, name, linear, mean), (vectors, _) in zip(chosen, linears, components):
        if rank is None:
            continue
        basis, weight = vectors[:, :rank], linear.weight.double()
        factors = LowRankLinear(linear.weight, linear.bias, rank, False)
        factors.up.copy_(basis)
        factors.down.copy_(basis.T @ weight)
        if linear.bias is not None:
            linear.bias.add_((weight - basis @ (basis.T @ weight)) @ mean)
        layer.set_submodule(name, factors)
    return {"ranks": str(chosen)}


def fewer_layers(model: nn.Module, material: "Material", layers: int, updates: int = 0) -> dict:
    """The model with this number of layers, chosen for the lowest loss on the calibration batches, then refined."""
    teacher, stack = copy.deepcopy(model), stack_of(model)
    all_layers = [*stack.layers]

    def loss(kept: tuple[int, ...]) -> float:
        model.model.encoder.layers = nn.ModuleList([all_layers[layer] for layer in kept])
        return material.calibration.held_out_loss(model)

    kept = min(combinations(range(len(all_layers)), layers), key=loss)
    loss(kept)
    if updates:
        refine((teacher, stack_of(teacher)), (model, stack_of(model)), nn.ModuleList(), material.calibration, updates)
    return {"layers": str(kept)}


def dense(model: nn.Module, material: "Material") -> dict:
    return {}


def systems() -> dict:
    """Name -> (function that makes it, updates)."""
    made = {"dense": (dense, 0)}
    for size in SIZES:
        made[f"compressed-{size}"] = (partial(compressed, weight_fraction=size), 0)
        made[f"low-rank-{size}"] = (partial(low_rank, weight_fraction=size), 0)
        made[f"lite-asr-{size}"] = (partial(lite_asr, weight_fraction=size), 0)
        made[f"lite-asr-uniform-{size}"] = (partial(lite_asr, weight_fraction=size, uniform=True), 0)
        made[f"shared-{size}"] = (partial(compressed, weight_fraction=size, group_size=2 if size > 0.5 else 4), 0)
    for layers in (3, 2):
        made[f"fewer-layers-{layers / 4}"] = (partial(fewer_layers, layers=layers), 0)
    made["fewer-layers-0.5-refined"] = (partial(fewer_layers, layers=2, updates=700), 700)
    for size, updates in REFINED.items():
        made[f"compressed-{size}-refined"] = (partial(compressed, weight_fraction=size, refine_updates=updates), updates)
    return made


def score(model, folder: Path, test: list[tuple[np.ndarray, str]]) -> dict:
    whisper, transcripts = InTransformers(model, folder), []
    for start in progress(range(0, len(test), BATCH), desc="scoring", unit="batch"):
        transcripts += whisper.transcribe_all([samples for samples, _ in test[start : start + BATCH]])
    return word_errors([text for _, text in test], transcripts)


class Material:
    """Data that several systems share; `seconds` are the core seconds of transcribing the audio and gathering moments.

    Attributes:
        calibration, held_out: results of `audio_calibration`.
        moments: of the dense model's matrices.
        test: audio and texts.
    """

    def __init__(self, whisper: Path, corpus: Path, more: int):
        start, model = time.process_time(), load(whisper)
        self.calibration, self.held_out = audio_calibration(model, whisper, corpus / "data" / "train" / "wav", BATCHES, 1, more)
        self.moments = gather(model, stack_of(model), self.calibration)
        self.seconds = time.process_time() - start
        self.test = utterances(corpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("whisper", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--systems", nargs="+", choices=systems(), default=list(systems()), metavar="NAME")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    show_progress()
    material_with = cache(partial(Material, args.whisper, args.corpus))
    for name in args.systems:
        if any(row["system"] == name for row in results.read(args.output)):
            continue
        make, updates = systems()[name]
        material = material_with(REFINE_BATCHES if updates else 0)
        model = load(args.whisper)
        row = {"system": name, "seed": 1, "updates": updates, "dense_loss": material.held_out.likelihood(model)["loss"]}
        dense_parameters = matrix_parameters(stack_of(model).layers)
        start = time.process_time()
        row |= make(model, material)
        row |= {
            "core_seconds": round(time.process_time() - start + material.seconds),
            "kept": round(matrix_parameters(stack_of(model).layers) / dense_parameters, 4),
            "loss": material.held_out.likelihood(model)["loss"],
        }
        results.append(args.output, {**row, **score(model, args.whisper, material.test), **results.provenance()})


if __name__ == "__main__":
    main()
