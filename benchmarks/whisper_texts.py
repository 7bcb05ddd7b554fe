"""Texts of `translate` with an exported Whisper, compared with those of generate in transformers.

    python benchmarks/whisper_texts.py PROMPTS WHISPER [--recordings 60] [--task translate]

PROMPTS is a folder with recordings of under half a minute in LANGUAGE/NAME.wav and their English in references.tsv (language, name,
english); WHISPER is the Hugging Face folder of a multilingual model. For each language there are rows of the first recordings, by
greedy search and by beam search with five hypotheses: how many texts are equal, BLEU of both, and whether both detect the same
language; and a row for a talk of all these recordings with pauses of 0.6 s: the words that differ, with the fallback rules of
Whisper's authors on both sides. Sampling draws different random numbers on each side. fp32, one thread. Rows go to
results/whisper_texts.jsonl; cases that have rows are skipped.
"""

import argparse
import csv
import logging
import tempfile
from pathlib import Path

import editdistance
import numpy as np
import torch
from sacrebleu import corpus_bleu

from residual_st.audio.reading import read_audio
from residual_st.benchmark import results
from residual_st.export.whisper_decoding import fallback_of
from residual_st.export.whisper_model import export_whisper
from residual_st.huggingface import feature_extractor, load
from residual_st.progress import progress, show_progress
from residual_st.runtime import Settings, Translator
from residual_st.runtime.model import Model

import transformers  # isort: skip  # after residual_st.huggingface, which hides a torchaudio that fails to load

RESULTS = Path(__file__).parent / "results" / "whisper_texts.jsonl"
RATE = 16_000
SEED = 1  # for temperatures above 0
PAUSE_SECONDS = 0.6  # between the recordings of a talk
TALK_SECONDS = 120.0
SHOWN = 5  # differing pairs of texts in a row


class InTransformers:
    """generate, as documented for short and for long recordings."""

    def __init__(self, whisper: Path, task: str):
        self._model, self._task = load(whisper), task
        self._extractor = feature_extractor(whisper, transformers.WhisperFeatureExtractor)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(whisper)

    @torch.no_grad()
    def detected(self, samples: np.ndarray) -> str:
        features = self._extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features
        self._encoded = self._model.get_encoder()(features)
        (detected_tag,) = self._model.detect_language(encoder_outputs=self._encoded).tolist()
        return next(tag for tag, number in self._model.generation_config.lang_to_id.items() if number == detected_tag).strip("<|>")

    def text(self, language: str, beam: int) -> str:
        """The text of the recording whose language was detected last."""
        asked = {"language": language, "task": self._task, "num_beams": beam}
        return self._decoded(self._model.generate(encoder_outputs=self._encoded, **asked))

    def long_text(self, samples: np.ndarray, language: str) -> str:
        options = {"return_tensors": "pt", "truncation": False, "padding": "longest", "return_attention_mask": True}
        inputs = self._extractor(samples, sampling_rate=RATE, **options)
        rules = fallback_of(self._model.generation_config)
        thresholds = {"logprob": "log_prob", "compression_ratio": "compression_ratio", "no_speech": "no_speech"}
        believed = {f"{name}_threshold": rules[rule] for name, rule in thresholds.items()}
        torch.manual_seed(SEED)
        asked = {"language": language, "task": self._task, "num_beams": 1, "return_timestamps": True}
        return self._decoded(self._model.generate(**inputs, **asked, temperature=rules["temperatures"], **believed))

    def _decoded(self, words: torch.Tensor) -> str:
        return plain(self._tokenizer.decode(words[0], skip_special_tokens=True))


def plain(text: str) -> str:
    return " ".join(text.split())


def recordings(prompts: Path, most: int) -> dict[str, list[tuple[np.ndarray, str]]]:
    """Language -> samples and English texts of its first recordings."""
    by_language = {}
    with (prompts / "references.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            of_language = by_language.setdefault(row["language"], [])
            if len(of_language) < most:
                of_language.append((read_audio(prompts / row["language"] / f"{row['name']}.wav", RATE), row["english"]))
    return by_language


def compared(runtime: list[str], generated: list[str], references: list[str]) -> dict:
    differ = [pair for pair in zip(runtime, generated) if pair[0] != pair[1]]
    scores = {
        name: round(corpus_bleu(texts, [references]).score, 2) for name, texts in (("bleu", runtime), ("generate_bleu", generated))
    }
    return {"recordings": len(runtime), "same": len(runtime) - len(differ), **scores, "different": differ[:SHOWN]}


def short(model: Model, base: InTransformers, language: str, task: str, test: list[tuple[np.ndarray, str]]) -> dict[int, dict]:
    """Beam size -> row."""
    runtime, generated, detected = {1: [], 5: []}, {1: [], 5: []}, 0
    for samples, _ in progress(test, desc=language, unit="recording"):
        detected_tag = base.detected(samples)
        detected += detected_tag == Translator(model, Settings(beam=1, max_len_b=1)).translate(samples).direction.source_lang
        for beam in runtime:
            made = Translator(model, Settings(beam=beam), task=task, source_lang=language).translate(samples)
            runtime[beam].append(plain(made.text))
            generated[beam].append(base.text(language, beam))
    references = [reference for _, reference in test]
    return {beam: {**compared(runtime[beam], generated[beam], references), "same_language_detected": detected} for beam in runtime}


def long(model: Model, base: InTransformers, language: str, task: str, test: list[tuple[np.ndarray, str]]) -> dict:
    pause = np.zeros(round(PAUSE_SECONDS * RATE), np.float32)
    talk = np.concatenate([part for samples, _ in test for part in (samples, pause)])[: round(TALK_SECONDS * RATE)]
    made = Translator(model, Settings(beam=1), task=task, source_lang=language).translate(talk)
    runtime, generated = plain(made.text), base.long_text(talk, language)
    errors = editdistance.eval(runtime.split(), generated.split())
    row = {"seconds": round(len(talk) / RATE, 1), "words": len(generated.split()), "words_that_differ": errors}
    return {**row, "segments": len(made.segments), "text": runtime, "generate_text": generated}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path)
    parser.add_argument("whisper", type=Path)
    parser.add_argument("--recordings", type=int, default=60, help="recordings per language")
    parser.add_argument("--languages", nargs="+", help="only these languages")
    parser.add_argument("--task", default="translate")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    show_progress()

    def add(case: dict, row: dict) -> None:
        results.append(args.output, {**case, **row, **results.provenance()})

    with tempfile.TemporaryDirectory() as work:
        export_whisper(args.whisper, Path(work), "fp32")
        model, base = Model(work), InTransformers(args.whisper, args.task)
        by_language = recordings(args.prompts, args.recordings)
        for language, test in ((name, by_language[name]) for name in args.languages or by_language):
            case = {"system": args.whisper.name, "seed": SEED, "task": args.task, "language": language}
            made = [row for row in results.read(args.output) if row.items() >= case.items()]
            if not any(row["measure"] == "long" for row in made):
                add({**case, "measure": "long"}, long(model, base, language, args.task, test))
            if not any(row["measure"] == "short" for row in made):
                for beam, row in short(model, base, language, args.task, test).items():
                    add({**case, "measure": "short", "beam": beam}, row)


if __name__ == "__main__":
    main()
