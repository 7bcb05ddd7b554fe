"""Prepare a MuST-C release for training with fairseq: filterbanks, manifests, a vocabulary and a data configuration.

    python examples/must_c/prepare.py --data-root MUSTC_ROOT --languages de --task st --vocab-type unigram --vocab-size 8000

The files equal those of fairseq's prep_mustc_data.py, and the two are interchangeable. This script needs no
torchaudio, runs on several processes, and resumes where it stopped.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from features import global_statistics, read_index, write_features
from manifest import COLUMNS, SPECAUGMENT, filter_rows, train_vocabulary, write_config, write_manifest
from must_c import SPLITS, Problem, Talk, check_layout, read_talks
from residual_st.errors import InputError
from residual_st.fairseq.manifest import read_manifest
from residual_st.files import atomically, refuse_separator
from residual_st.printing import print_any_text

SHOWN_PROBLEMS = 10


def prepare_language(data_root: Path, language: str, args: argparse.Namespace) -> None:
    """Write fbank80.zip, SPLIT_TASK.tsv, the vocabulary and config_TASK.yaml into `data_root/en-LANGUAGE`."""
    root = data_root / f"en-{language}"
    check_layout(root, language)
    hours, problems = survey(root, language)
    if not args.skip_bad:
        refuse(problems)
    archive = root / "fbank80.zip"
    if archive.exists():
        print(f"{archive} already exists and is used")
    else:
        problems += extract_features(root, language, archive, hours, args.workers)
        if not args.skip_bad:
            refuse(problems)
    index = read_index(archive)

    def rows(split: str) -> Iterator[dict]:
        for talk in read_talks(root, language, split):
            for segment in talk.segments:
                entry = index.get(segment.id)
                if entry is None:
                    if not args.skip_bad:
                        raise InputError(f"{archive} contains no features of {segment.id}; remove it to create it again")
                    continue
                yield {
                    "id": segment.id,
                    "audio": f"{archive.absolute()}:{entry.offset}:{entry.size}",
                    "n_frames": entry.n_frames,
                    "tgt_text": segment.source if args.task == "asr" else segment.target,
                    "speaker": segment.speaker,
                }

    vocabulary = vocabulary_prefix(root, args)
    train_vocabulary((row["tgt_text"] for row in rows("train")), vocabulary, args.vocab_type, args.vocab_size)
    for split in SPLITS:
        counts = Counter()
        write_manifest(filter_rows(rows(split), split == "train", counts), root / f"{split}_{args.task}.tsv")
        dropped = ", ".join(f"{reason}: {count}" for reason, count in counts.items() if reason != "kept") or "none"
        print(f"{split}_{args.task}.tsv: {counts['kept']} segments; filtered: {dropped}")
    statistics = write_statistics([root / f"train_{args.task}.tsv"], root, args)
    write_config(root / f"config_{args.task}.yaml", vocabulary, args.specaugment or "lb", args.cmvn, statistics)
    if problems:
        show(problems)
        print(f"skipped {n_segments(problems)} segments that cannot be used")


def survey(root: Path, language: str) -> tuple[float, list[Problem]]:
    """Hours of usable audio, and all unusable data, checked before any work."""
    seconds, problems, split_of = 0.0, [], {}
    for split in SPLITS:
        for talk in read_talks(root, language, split):
            if split_of.setdefault(talk.wav.name, split) != split:
                raise InputError(f"{talk.wav.name} is in {split_of[talk.wav.name]} and in {split}, but its name must be unique")
            seconds += audio_seconds(talk)
            problems += talk.problems
    return seconds / 3600, problems


def extract_features(root: Path, language: str, archive: Path, hours: float, workers: int) -> list[Problem]:
    """Compute all filterbanks with a progress bar in hours of audio. Returns the data that could not be read."""
    talks = (talk for split in SPLITS for talk in read_talks(root, language, split))
    problems, start = [], time.monotonic()
    with tqdm(
        total=round(hours, 2), unit="h", desc=f"filterbanks en-{language}", bar_format="{l_bar}{bar}| {n:.1f}/{total:.1f} h"
    ) as bar:
        for talk, talk_problems in write_features(talks, archive, workers):
            problems += talk_problems
            bar.update(audio_seconds(talk) / 3600)
    minutes = (time.monotonic() - start) / 60
    print(f"{hours:.2f} h of audio in {minutes:.1f} min: {hours / minutes:.0f} hours per minute with {workers} processes")
    return problems


def audio_seconds(talk: Talk) -> float:
    return sum(segment.length for segment in talk.segments) / (talk.sample_rate or 1)


def show(problems: list[Problem]) -> None:
    for problem in problems[:SHOWN_PROBLEMS]:
        print(problem.message, file=sys.stderr)
    if len(problems) > SHOWN_PROBLEMS:
        print(f"... and {len(problems) - SHOWN_PROBLEMS} more", file=sys.stderr)


def n_segments(problems: list[Problem]) -> int:
    return sum(problem.segments for problem in problems)


def refuse(problems: list[Problem]) -> None:
    if problems:
        show(problems)
        raise InputError(f"{n_segments(problems)} segments cannot be used; fix them, or skip them with --skip-bad")


def prepare_joint(data_root: Path, languages: list[str], args: argparse.Namespace) -> None:
    """Write one vocabulary and configuration for several languages, and SPLIT_LANGUAGE_TASK.tsv, into `data_root`.

    Rows of a translation manifest contain `tgt_lang`, from which fairseq derives the language tag.
    """
    manifests = {
        (language, split): data_root / f"en-{language}" / f"{split}_{args.task}.tsv" for language in languages for split in SPLITS
    }
    for (language, _), path in manifests.items():
        if not path.exists():
            raise InputError(f"{path} is missing; prepare --languages {language} --task {args.task} without --joint first")
    translating = args.task == "st"
    tagged = translating and args.prepend_tgt_lang_tag
    sentences = (row["tgt_text"] for language in languages for row in read_manifest(manifests[language, "train"]))
    vocabulary = vocabulary_prefix(data_root, args)
    symbols = [f"<lang:{language}>" for language in languages] if tagged else None
    train_vocabulary(sentences, vocabulary, args.vocab_type, args.vocab_size, symbols)
    for (language, split), path in manifests.items():
        rows = ({**row, "tgt_lang": language} for row in read_manifest(path))
        columns = [*COLUMNS, "tgt_lang"] if translating else COLUMNS
        write_manifest(rows, data_root / f"{split}_{language}_{args.task}.tsv", columns)
    statistics = write_statistics([manifests[language, "train"] for language in languages], data_root, args)
    write_config(data_root / f"config_{args.task}.yaml", vocabulary, args.specaugment or "ld", args.cmvn, statistics, tagged)
    print(f"{data_root}: joint {args.task} data of {', '.join(languages)}")


def write_statistics(manifests: Iterable[Path], root: Path, args: argparse.Namespace) -> Path | None:
    """Write the statistics for `--cmvn global` from training manifests. Returns the file; None for other normalisations."""
    if args.cmvn != "global":
        return None
    places = [row["audio"] for manifest in manifests for row in read_manifest(manifest)]
    statistics, path = global_statistics(tqdm(places, unit="utterance", desc="global CMVN")), root / f"gcmvn_{args.task}.npz"
    with atomically(path) as partial, open(partial, "wb") as file:
        np.savez(file, **statistics)
    return path


def vocabulary_prefix(root: Path, args: argparse.Namespace) -> Path:
    size = "" if args.vocab_type == "char" else args.vocab_size
    return root / f"spm_{args.vocab_type}{size}_{args.task}"


def main() -> int:
    print_any_text()
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.split("\n\n")[0])
    parser.add_argument("--data-root", "-d", required=True, type=Path, help="folder that contains en-XX/")
    parser.add_argument("--languages", nargs="+", required=True, metavar="XX", help="target languages, such as de")
    parser.add_argument("--task", choices=["asr", "st"], required=True, help="task: recognition (asr) or translation (st)")
    parser.add_argument("--vocab-type", choices=["bpe", "unigram", "char"], default="unigram")
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--joint", action="store_true", help="join languages that were prepared separately")
    parser.add_argument(
        "--prepend-tgt-lang-tag",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="joint translation: start every target with its language's tag",
    )
    parser.add_argument(
        "--specaugment", choices=[*SPECAUGMENT, "none"], help="SpecAugment policy in training (default: lb, or ld with --joint)"
    )
    parser.add_argument(
        "--cmvn",
        "--cmvn-type",
        choices=["utterance", "global", "none"],
        default="utterance",
        help="normalise features by each utterance, by the training set, or not; streams need one of the last two "
        "(default: utterance)",
    )
    parser.add_argument("--skip-bad", action="store_true", help="skip unusable segments instead of stopping")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of processes (default: one per core)")
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f"--workers {args.workers} must be at least 1")
    try:
        refuse_separator(args.data_root)  # the manifests refer to positions in archives there
        if args.joint:
            prepare_joint(args.data_root, args.languages, args)
        else:
            for language in args.languages:
                prepare_language(args.data_root, language, args)
    except InputError as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
