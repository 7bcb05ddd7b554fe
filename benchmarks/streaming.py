"""Streaming translation and recognition: BLEU or WER against latency, measured by simulstream's commands.

    python benchmarks/streaming.py make TALKS --corpus DATA [--transcripts]   # DATA: of the recipe (examples/must_c)
    python benchmarks/streaming.py make TALKS --prompts PROMPTS --language es
    python benchmarks/streaming.py run TALKS NAME=MODEL … [--policies NAME …] [--chunks 0.5 1 2] [--set KEY=VALUE …]

`make` concatenates sentences, with pauses of 0.2 to 1 s, to talks of at least five minutes. Sentences are those of a corpus's test
sets, or recordings PROMPTS/LANGUAGE/NAME.wav with their English in references.tsv (language, name, english). `--seed` determines
their order and the pauses; no sentence occurs in two talks.

`run` streams them one after the other through `simulstream_inference` on one thread, for each model, policy and length of chunks,
and scores the outputs by `simulstream_score_quality` (BLEU), `simulstream_score_latency` (StreamLAAL, ideal and with computation
time) and `simulstream_stats`. MODEL is a value of `model:` in configs/simulstream_*.yaml; a folder of `residual-st export` saves
exporting it for each row. Policies are those of `residual-st listen`; `streamatt` and `sliding-window`, simulstream's policies with
models of this project; `offline` and `offline-ctc`, which translate complete talks by the decoder and by CTC; and
`hf-sliding-window`, simulstream's `hf_sliding_window_retranslation` with a Hugging Face folder.

A row has no texts, but counts per sentence for intervals: of BLEU (`counts`), and of errors and words (`errors`), by the same
alignment (mweralign). Rows go to results/streaming.jsonl; cases that have rows are skipped.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import yaml
from mweralign import mweralign
from settings import settings_of
from simulstream.config import yaml_config
from simulstream.metrics.readers import LogReader, YamlReferenceReader

from residual_st.audio.reading import read_audio
from residual_st.benchmark import results
from residual_st.errors import InputError
from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import error_counts, error_rate, ngram_counts
from residual_st.progress import progress, show_progress
from residual_st.runtime import Settings, Translator
from residual_st.runtime.model import Model
from residual_st.streaming import POLICIES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "streaming.jsonl"
RATE = 16_000
PAUSES = (0.2, 1.0)  # seconds
TEST_SETS = ("tst-COMMON", "tst-HE")
OFFLINE = {"offline": lambda model: model, "offline-ctc": Model.by_ctc}
RESIDUAL_ST = tuple(POLICIES)
SIMULSTREAMS = {"streamatt": "simulstream_streamatt.yaml", "sliding-window": "simulstream_sliding_window.yaml"}
DETOKENIZER = {"detokenizer_type": "simuleval", "latency_unit": "spm"}
HF = {
    "type": "simulstream.server.speech_processors.hf_sliding_window_retranslation.HFSlidingWindowRetranslator",
    "window_len": 12,
    "detokenizer_type": "hf",
}
# the BLEU scorer imports COMET without using it, and COMET needs numpy before 2; for Hugging Face folders, residual_st.huggingface
# hides a torchaudio that fails to load from transformers
PROGRAM = """
import importlib.util, sys, types
if importlib.util.find_spec("comet") is None:
    sys.modules["comet"] = types.SimpleNamespace(download_model=None, load_from_checkpoint=None)
if {of_huggingface}:
    import residual_st.huggingface
from simulstream.{module} import cli_main
sys.exit(cli_main())
"""

Spoken = tuple[np.ndarray, str]  # a sentence's samples, and its reference


def of_corpus(data: Path, language: str, transcripts: bool) -> Iterator[Spoken]:
    sys.path.append(str(ROOT / "examples" / "must_c"))
    from must_c import read_talks

    for subset in TEST_SETS:
        for talk in read_talks(data, language, subset):
            samples = read_audio(talk.wav, RATE)
            for segment in talk.segments:
                yield samples[segment.start : segment.start + segment.length], segment.source if transcripts else segment.target


def of_prompts(prompts: Path, language: str) -> Iterator[Spoken]:
    with (prompts / "references.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["language"] == language:
                yield read_audio(prompts / language / f"{row['name']}.wav", RATE), row["english"]


def make(sentences: list[Spoken], folder: Path, most: int, least: float, seed: int) -> None:
    """Write talks as WAV, talks.yaml with the segments, references.txt and the list of names, in simulstream's formats. The last
    talk may be shorter than `least` seconds."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    order = draw.permutation(len(sentences)).tolist()
    definitions, references, names = [], [], []
    while order and len(names) < most:
        parts, length = [], 0
        while order and length < least * RATE:
            pause = np.zeros(round(draw.uniform(*PAUSES) * RATE), np.float32)
            samples, reference = sentences[order.pop()]
            start = (length + len(pause)) / RATE
            definitions.append({"wav": f"{len(names)}.wav", "offset": start, "duration": len(samples) / RATE})
            references.append(" ".join(reference.split()))
            parts += [pause, samples]
            length += len(pause) + len(samples)
        soundfile.write(folder / f"{len(names)}.wav", np.concatenate(parts), RATE, "PCM_16")
        names.append(f"{len(names)}.wav")
    (folder / "talks.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "talks.yaml").write_text(yaml.safe_dump(definitions))
    (folder / "references.txt").write_text("".join(f"{reference}\n" for reference in references), encoding="utf-8")
    print(f"{folder}: {len(names)} talks, {len(references)} sentences")


def config_of(policy: str, model: str, chunk: float, settings: dict) -> dict:
    if policy == "hf-sliding-window":
        return {**HF, "hf_model_name": model, "speech_chunk_size": chunk, **settings}
    path = ROOT / "configs" / SIMULSTREAMS.get(policy, "simulstream_stream.yaml")
    policy_settings = {"policy": policy} if policy in RESIDUAL_ST else {}
    return {**yaml.safe_load(path.read_text()), **policy_settings, "model": model, "speech_chunk_size": chunk, **settings}


def offline(model: Model, talks: Path, settings: dict, log: Path) -> None:
    """Write a log in simulstream's format for talks that are translated offline."""
    directions = {name: settings[name] for name in ("task", "source_lang", "target_lang") if name in settings}
    translator = Translator(model, Settings(beam=settings.get("beam")), **directions)
    with log.open("w") as file:
        for number, name in enumerate((talks / "talks.txt").read_text().split()):
            begun = time.time()
            translation = translator.translate(talks / name)
            row = {"id": number, "total_audio_processed": translation.seconds, "computation_time": time.time() - begun}
            row |= {"generated_tokens": list(translation.text.replace(" ", "▁")), "deleted_tokens": []}
            file.write(json.dumps({"id": number, "metadata": {"wav_name": name}}) + "\n" + json.dumps(row) + "\n")


def program(module: str, of_huggingface: bool, *arguments: str | Path) -> str:
    """The output of a command of simulstream."""
    command = [sys.executable, "-c", PROGRAM.format(module=module, of_huggingface=of_huggingface), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"simulstream.{module} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def sentence_counts(config: Path, log: Path, talks: Path) -> dict:
    """Counts of each sentence, in the order of the references, for BLEU and for WER."""
    said = LogReader(yaml_config(str(config)), str(log)).final_outputs()
    sentences = []
    references = YamlReferenceReader(str(talks / "talks.yaml"), str(talks / "references.txt")).get_reference_texts()
    for talk, texts in references.items():
        aligned = mweralign.align_texts("\n".join(texts), said[talk]).split("\n")
        sentences += [Sentence(reference, hypothesis) for reference, hypothesis in zip(texts, aligned, strict=True)]
    counts = {"counts": ngram_counts(sentences), "errors": error_counts(sentences)}
    wer = round(float(error_rate(counts["errors"].sum(0))), 3)
    return {"wer": wer, **{name: of_each.astype(int).tolist() for name, of_each in counts.items()}}


def scores(config: Path, log: Path, talks: Path, of_huggingface: bool) -> dict:
    scored = ["--eval-config", config, "--log-file", log]
    definition, references = ["--audio-definition", talks / "talks.yaml"], talks / "references.txt"
    lag, score = (["--reference", references, "--scorer", "stream_laal"], ["--references", references, "--scorer", "sacrebleu"])
    latency = program("metrics.score_latency", of_huggingface, *scored, *definition, *lag)
    quality = program("metrics.score_quality", of_huggingface, *scored, *definition, *score)
    stats = json.loads(program("metrics.stats", of_huggingface, *scored).removeprefix("Stats: "))
    ideal, aware = (
        float(re.search(rf"{name}=(-?[\d.]+)", latency)[1]) for name in ("ideal_latency", "computational_aware_latency")
    )
    return {
        "bleu": round(float(re.search(r"sacrebleu score: ([\d.]+)", quality)[1]), 2),
        "stream_laal": round(ideal, 3),
        "stream_laal_computation_aware": round(aware, 3),
        "real_time_factor": round(stats["real_time_factor"]["value"], 4),
        "normalized_erasure": round(stats["normalized_erasure"]["value"], 4),
        **sentence_counts(config, log, talks),
    }


def measured(policy: str, model: str, chunk: float, settings: dict, talks: Path) -> dict:
    if of_huggingface := policy == "hf-sliding-window":
        import residual_st.huggingface  # noqa: F401
    with tempfile.TemporaryDirectory() as work:
        config, log = Path(work) / "config.yaml", Path(work) / "log.jsonl"
        if policy in OFFLINE:
            config.write_text(yaml.safe_dump(DETOKENIZER))
            offline(OFFLINE[policy](Model(model)), talks, settings, log)
        else:
            config.write_text(yaml.safe_dump(config_of(policy, model, chunk, settings)))
            names = ["--wav-list-file", talks / "talks.txt", "--metrics-log-file", log]
            program("inference", of_huggingface, "--speech-processor-config", config, *names)
        return scores(config, log, talks, of_huggingface)


def run(args: argparse.Namespace) -> None:
    settings = settings_of(args.set)
    seconds = sum(soundfile.info(args.talks / name).duration for name in (args.talks / "talks.txt").read_text().split())
    cases = []
    for system in args.systems:
        name, _, model = system.partition("=")
        model = str(Path(model).absolute())
        for policy in args.policies:
            for chunk in [0.0] if policy in OFFLINE else args.chunks:
                case = {"system": name, "seed": args.seed, "talks": args.talks.name, "policy": policy, "chunk_seconds": chunk}
                case["settings"] = settings
                if not any(row.items() >= case.items() for row in results.read(args.output)):
                    cases.append((case, model))
    for case, model in progress(cases, unit="system"):
        row = measured(case["policy"], model, case["chunk_seconds"], settings, args.talks.absolute())
        results.append(args.output, {**case, "seconds": round(seconds), **row, **results.provenance()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("talks", type=Path)
    making.add_argument("--corpus", type=Path)
    making.add_argument("--prompts", type=Path)
    making.add_argument("--language", default="de", help="language of the corpus's texts, or spoken language of the prompts")
    making.add_argument("--transcripts", action="store_true", help="references are transcripts instead of translations")
    making.add_argument("--number", type=int, default=10, help="of talks")
    making.add_argument("--seconds", type=float, default=300.0, help="minimum seconds of a talk")
    making.add_argument("--seed", type=int, default=1)
    making.add_argument("--force", action="store_true")
    running = commands.add_parser("run")
    running.add_argument("talks", type=Path)
    running.add_argument("systems", nargs="+", metavar="NAME=MODEL")
    running.add_argument(
        "--policies",
        nargs="+",
        default=["offline", "local-agreement", "alignatt"],
        choices=[*OFFLINE, *RESIDUAL_ST, *SIMULSTREAMS, "hf-sliding-window"],
    )
    running.add_argument("--chunks", nargs="+", type=float, default=[0.5, 1.0, 2.0])
    running.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the configuration, such as beam=1 or task=translate"
    )
    running.add_argument("--seed", type=int, default=1, help="training seed of the model, for the row")
    running.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    show_progress()
    if args.command == "run":
        try:
            run(args)
        except InputError as error:
            print(f"streaming.py: {error}", file=sys.stderr)
            return 2
        return 0
    if args.force:
        shutil.rmtree(args.talks, ignore_errors=True)
    if args.corpus:
        sentences = list(of_corpus(args.corpus, args.language, args.transcripts))
    else:
        sentences = list(of_prompts(args.prompts, args.language))
    make(sentences, args.talks, args.number, args.seconds, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
