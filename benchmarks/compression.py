"""The loss of a trained model by compression, compared with ablations and baselines, on a task that depends on the encoder.

    export DEMO_ROOT=hard
    python examples/must_c/make_demo_corpus.py --output hard --hours 8 --difficulty hard
    python examples/must_c/prepare.py --data-root hard --languages de --task asr --vocab-size 240 --specaugment none
    for seed in 1 2 3; do residual-st train configs/demo_hard_asr.yaml seed=$seed save-dir=hard/asr$seed; done
    python benchmarks/compression.py hard/en-de hard/asr{1,2,3}/checkpoint_last.pt
    python benchmarks/compression.py hard/en-de hard/asr1/checkpoint_last.pt --ladder

and for translation, with the encoder of the first:

    python examples/must_c/prepare.py --data-root hard --languages de --task st --vocab-size 400 --specaugment none
    residual-st train configs/demo_hard_st.yaml load-pretrained-encoder-from=hard/asr1/checkpoint_last.pt
    residual-st expand hard/st/checkpoint_last.pt --output hard/st.pt
    python benchmarks/compression.py hard/en-de hard/st.pt

Training takes 35 to 55 minutes per model on one core, the rest about 25 minutes per model and 15 for the ladder. A row per model
and system is appended to results/compression.jsonl when it is finished; systems that have rows are skipped. Word error rates are of
tst-COMMON and tst-HE together, whose voices and sentences do not occur in train: beam 5, with punctuation and case.
"""

import argparse
import copy
import os
import subprocess
import sys
import tempfile
from functools import cache, cached_property, partial
from pathlib import Path

import torch
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import OmegaConf

from residual_st.benchmark.results import append, provenance, read
from residual_st.compression.config import CompressionConfig
from residual_st.compression.layer_weights import read_layer
from residual_st.compression.low_rank import low_rank
from residual_st.compression.moments import gather
from residual_st.compression.pipeline import Compressed, compress
from residual_st.compression.refinement import refine
from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import corpus_scores, error_counts
from residual_st.fairseq.checkpoints import save_checkpoint
from residual_st.fairseq.conversion import read_model, residual_checkpoint
from residual_st.fairseq.training_data import TrainingData
from residual_st.sharing import matrices
from residual_st.stacks import stack_of

RESULTS = Path(__file__).parent / "results" / "compression.jsonl"
ROOT = Path(__file__).parent.parent
TEST_SETS = ("tst-COMMON", "tst-HE")
SIZES = {
    "K=3 R=16": {"group_size": 3, "rank": 16},
    "budget 0.36": {"weight_fraction": 0.36},
    "K=3 R=2": {"group_size": 3, "rank": 2},
}
METHODS = (("plain", False, False), ("aligned", True, False), ("calibrated", False, True), ("aligned + calibrated", True, True))
LADDER = (0, 2, 4, 8, 16, 32)
CALIBRATION_BATCHES = 30
REFINE_BATCHES, REFINE_UPDATES = 120, 120
FINE_TUNING_UPDATES = 120  # 5 % of the dense model's


class Subject:
    """A trained dense model, its data, and results that several systems share."""

    def __init__(self, path: Path, data: Path):
        self.folder = data
        self.state, self.dense = read_model(path, residual=False)
        self.task = self.state["cfg"]["task"].train_subset.rpartition("_")[2]  # asr or st
        self.seed = self.state["cfg"]["common"]["seed"]
        self.data = TrainingData(self.state, data)

    def model(self):
        return copy.deepcopy(self.dense)

    @cached_property
    def moments(self):
        return gather(self.dense, stack_of(self.dense), self.data.calibration(CALIBRATION_BATCHES, seed=1))

    def compressed(self, size: dict, align: bool, weigh: bool):
        model = self.model()
        result = compress(model, CompressionConfig(**size, align=align), moments=self.moments if weigh else None)
        return model, result

    def refined(self, make):
        model, result = copy.deepcopy(make())
        calibration = self.data.calibration(REFINE_BATCHES, seed=2)
        dense, shared = ((model, stack_of(model)) for model in (self.dense, model))
        refine(dense, shared, result.shared_weights, calibration, REFINE_UPDATES)
        return model, result

    def low_rank_alone(self, fraction: float):
        """Each matrix separately, as its best low-rank approximation in the same metric and of equal size: no U, no diagonal."""
        model = self.model()
        with torch.no_grad():
            for layer, layer_moments in zip(model.encoder.transformer_layers, self.moments):
                weights = read_layer(layer)
                for name, linear in matrices(layer):
                    moments = layer_moments[name]
                    rows, columns = linear.weight.shape
                    rank = int(fraction * rows * columns / (rows + columns))
                    up, down = low_rank(weights[name].weight, moments.metric(), rank)
                    error = weights[name].weight - up @ down
                    linear.weight.copy_(up @ down)
                    linear.bias.copy_(weights[name].bias + error @ moments.input_mean)
        return model

    def without_layers(self, kept: list[int]):
        model = self.model()
        model.encoder.transformer_layers = torch.nn.ModuleList([model.encoder.transformer_layers[index] for index in kept])
        return model

    def fine_tuned(self, make):
        """Fine-tuning on labels by fairseq-train, for 5 % of the dense model's updates."""
        model, result = make()
        with tempfile.TemporaryDirectory() as folder:
            start = Path(folder) / "start.pt"
            save_checkpoint(residual_checkpoint(self.state, model, result), start)
            return self._train(Path(folder), result, f"finetune-from-model={start}", "lr=5e-4"), result

    def trained_from_scratch(self, make):
        """A model of the same form trained from scratch for as many updates."""
        result = make()[1]
        with tempfile.TemporaryDirectory() as folder:
            return self._train(Path(folder), result, "lr=2e-3"), result

    def _train(self, folder: Path, result: Compressed, *overrides: str):
        config = {
            "data": self.folder,
            "save-dir": folder / "run",
            "seed": self.seed,
            "arch": self.state["cfg"]["model"].arch.replace("s2t_", "s2t_residual_", 1),
            "encoder-sharing-pattern": f"'{result.form.plan}'",
            "encoder-residual-rank": f"'{result.form.ranks}'",
            "encoder-residual-diagonal": str(result.form.diagonal).lower(),
            "max-update": FINE_TUNING_UPDATES,
            "total-num-update": FINE_TUNING_UPDATES,
            "warmup-updates": 10,
            "save-interval-updates": "",
            "validate-interval-updates": "",
            "disable-validation": "true",
        }
        command = [sys.executable, "-m", "residual_st", "train", str(ROOT / "configs" / "demo_hard_asr.yaml")]
        command += [f"{name}={value}" for name, value in config.items()] + [*overrides]
        environment = {**os.environ, "DEMO_ROOT": str(self.folder.parent), "OMP_NUM_THREADS": str(torch.get_num_threads())}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-4000:])
        return read_model(folder / "run" / "checkpoint_last.pt", residual=True)[1]

    def decode(self, model, subset: str):
        """Yield the `Sentence` of each utterance."""
        task = self.data.task
        generator = task.build_generator([model], OmegaConf.structured(GenerationConfig(beam=5)))
        bpe = task.build_bpe(None)
        for batch in self.data.batches(subset):
            hypotheses = task.inference_step(generator, [model], batch)
            for index, best in zip(batch["id"].tolist(), hypotheses):
                text = bpe.decode(task.target_dictionary.string(best[0]["tokens"]))
                yield Sentence(task.dataset(subset).tgt_texts[index], text)

    def judge(self, model) -> dict:
        """Losses on dev, and the word errors of each test utterance or BLEU of all."""
        sentences = [sentence for test_set in TEST_SETS for sentence in self.decode(model, f"{test_set}_{self.task}")]
        figures = {name: round(value, 4) for name, value in self.data.likelihoods(model).items()}
        if self.task == "st":
            scores = corpus_scores(sentences)
            return {**figures, "bleu": scores["bleu"], "signature": scores["bleu_signature"]}
        errors, words = error_counts(sentences).astype(int).T.tolist()
        return {**figures, "wer": round(100 * sum(errors) / sum(words), 3), "errors": errors, "words": words}


def systems(subject: Subject, ladder: bool):
    """Yield (name, weight fraction unless the compressed model has it, function that makes the model), most important first."""
    count = len(subject.dense.encoder.transformer_layers)
    yield "dense", 1.0, subject.model
    yield "all layers bypassed", 0.0, partial(subject.without_layers, [])
    yield "first third of the layers", 1 / 3, partial(subject.without_layers, list(range(count // 3)))
    yield "every third layer", 1 / 3, partial(subject.without_layers, list(range(0, count, 3)))
    best = {size: cache(partial(subject.compressed, options, align=True, weigh=True)) for size, options in SIZES.items()}
    refined = {size: cache(partial(subject.refined, make)) for size, make in best.items()}
    plain = {size: cache(partial(subject.compressed, options, align=False, weigh=False)) for size, options in SIZES.items()}
    for size in SIZES:
        yield f"{size}: aligned + calibrated", None, best[size]
        yield f"{size}: refined", None, refined[size]
    if subject.task == "st":
        return
    for size in SIZES:
        yield f"{size}: refined, fine-tuned", None, partial(subject.fine_tuned, refined[size])
    for size in SIZES:
        yield f"{size}: plain", None, plain[size]
    for fraction in (0.36, 0.525):
        yield f"low rank alone {fraction}", fraction, partial(subject.low_rank_alone, fraction)
    if not ladder:
        return
    for rank in LADDER:
        for name, align, weigh in METHODS:
            options = {"group_size": 3, "rank": rank}
            yield f"K=3 R={rank}: {name}", None, partial(subject.compressed, options, align=align, weigh=weigh)
    yield "K=3 R=2: aligned + calibrated, fine-tuned", None, partial(subject.fine_tuned, best["K=3 R=2"])
    yield "K=3 R=2: plain, fine-tuned", None, partial(subject.fine_tuned, plain["K=3 R=2"])
    yield "K=3 R=2: scratch, trained as long", None, partial(subject.trained_from_scratch, plain["K=3 R=2"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path, help="folder of manifests")
    parser.add_argument("models", nargs="+", type=Path, help="dense checkpoints, one per seed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ladder", action="store_true", help="also the ladder of ranks")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    done = set()
    if RESULTS.exists():
        done = {(row["task"], row["seed"], row["system"]) for row in read(RESULTS)}
    for path in args.models:
        subject = Subject(path, args.data)
        for name, fraction, make in systems(subject, args.ladder):
            if (subject.task, subject.seed, name) in done:
                continue
            done.add((subject.task, subject.seed, name))
            made = make()
            model, result = made if isinstance(made, tuple) else (made, None)
            row = {"system": name, "task": subject.task, "seed": subject.seed, "fraction": fraction}
            if result is not None:
                row |= {"fraction": round(result.parameters_after / result.parameters_before, 4), "plan": str(result.form.plan)}
            row |= subject.judge(model)
            append(RESULTS, {**row, **provenance()})
            print(
                {key: row[key] for key in ("system", "seed", "fraction", "nll_loss", "ctc_loss", "wer", "bleu") if key in row},
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
