"""Generate a synthetic English-German corpus in the layout of the MuST-C release.

    python examples/must_c/make_demo_corpus.py --output DIR --hours 4

Nobody recorded this speech: espeak-ng speaks sentences of a small grammar (demo_grammar.py) in dozens of voices (demo_speech.py).
It stands in for MuST-C where MuST-C may not be downloaded, and shows that the pipeline works, not how well it works on people.
The same seed, size and difficulty give the same bytes.
"""

import argparse
import multiprocessing
import sys
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import soundfile
import yaml
from tqdm import tqdm

import demo_grammar
from demo_grammar import Phrase
from demo_speech import SAMPLE_RATE, Voice, draw_voice, record_in_room, speak
from residual_st.files import whole_folder
from residual_st.printing import print_any_text

SENTENCES_PER_TALK = 24
SENTENCES_PER_HOUR = 1240
# sizes of held-out splits in sentences, as fractions of train, within bounds
SHARES = {"dev": (0.04, 24, 400), "tst-COMMON": (0.05, 48, 400), "tst-HE": (0.02, 24, 200)}


class Talk(NamedTuple):
    """One recording: a speaker who says several sentences with pauses between them."""

    name: str
    seed: str
    voice: Voice
    sentences: list[Phrase]
    wav_dir: Path


def draw_talks(root: Path, hours: float, seed: int, difficulty: str) -> dict[str, list[Talk]]:
    """Draw every sentence and voice of the corpus. No sentence is in two splits, and no test voice is in train."""
    rng = Random(f"{seed}/{difficulty}")
    train_size = max(SENTENCES_PER_TALK, round(hours * SENTENCES_PER_HOUR))
    sizes = {"train": train_size}
    for split, (share, low, high) in SHARES.items():
        sizes[split] = min(high, max(low, round(share * train_size)))
    used = set()
    talks, number = {}, 0
    for split in ["tst-COMMON", "tst-HE", "dev", "train"]:
        talks[split] = []
        for start in range(0, sizes[split], SENTENCES_PER_TALK):
            sentences = []
            while len(sentences) < min(SENTENCES_PER_TALK, sizes[split] - start):
                pair = demo_grammar.sentence(rng, open_vocabulary=difficulty == "hard")
                if pair.english not in used:
                    used.add(pair.english)
                    sentences.append(pair)
            number += 1
            voice = draw_voice(rng, split, difficulty == "hard")
            wav_dir = root / "data" / split / "wav"
            talks[split].append(Talk(f"demo_{number}", f"{seed}/{difficulty}/{number}", voice, sentences, wav_dir))
    return talks


def record(talk: Talk) -> list[dict]:
    """Write the talk's wav and return its segments as lines of MuST-C's yaml. Runs in its own process."""
    rng = np.random.default_rng(list(talk.seed.encode()))
    pieces, segments, position = [], [], 0
    for sentence in talk.sentences:
        pause = np.zeros(int(rng.uniform(0.3, 0.9) * SAMPLE_RATE), np.float32)
        speech = speak(sentence.english, talk.voice)
        position += len(pause)
        segments.append(
            {
                "duration": round(len(speech) / SAMPLE_RATE, 6),
                "offset": round(position / SAMPLE_RATE, 6),
                "rW": len(sentence.english.split()),
                "uW": 0,
                "speaker_id": f"spk.{talk.name.split('_')[1]}",
                "wav": f"{talk.name}.wav",
            }
        )
        position += len(speech)
        pieces += [pause, speech]
    pieces.append(np.zeros(SAMPLE_RATE // 2, np.float32))
    recording = record_in_room(np.concatenate(pieces), talk.voice, rng)
    soundfile.write(talk.wav_dir / f"{talk.name}.wav", recording, SAMPLE_RATE, subtype="PCM_16")
    return segments


def make_corpus(output: Path, hours: float, seed: int, difficulty: str, workers: int) -> None:
    """Write `output/en-de/data/SPLIT/{wav,txt}`. `en-de` is written under a temporary name and renamed when complete."""
    output.mkdir(parents=True, exist_ok=True)
    with whole_folder(output / "en-de") as partial:
        talks = draw_talks(partial, hours, seed, difficulty)
        for split in talks:
            for folder in ("wav", "txt"):
                (partial / "data" / split / folder).mkdir(parents=True)
        everything = [(split, talk) for split in talks for talk in talks[split]]
        segments = {split: [] for split in talks}
        # a new process for each talk: espeak-ng's output depends on its previous calls
        with multiprocessing.get_context("spawn" if sys.platform == "darwin" else "fork").Pool(workers, maxtasksperchild=1) as pool:
            recorded = pool.imap(record, [talk for _, talk in everything], chunksize=1)
            for (split, _), talk_segments in zip(everything, tqdm(recorded, total=len(everything), unit="talk", desc="speaking")):
                segments[split] += talk_segments
        for split in talks:
            txt = partial / "data" / split / "txt"
            pairs = [pair for talk in talks[split] for pair in talk.sentences]
            (txt / f"{split}.en").write_text("".join(pair.english + "\n" for pair in pairs), encoding="utf-8")
            (txt / f"{split}.de").write_text("".join(pair.german + "\n" for pair in pairs), encoding="utf-8")
            with open(txt / f"{split}.yaml", "w", encoding="utf-8") as file:
                for segment in segments[split]:
                    file.write("- " + yaml.safe_dump(segment, default_flow_style=True, width=10_000))
            seconds = sum(segment["duration"] for segment in segments[split])
            print(f"{split}: {len(pairs)} sentences, {len(talks[split])} talks, {seconds / 3600:.2f} h of synthetic speech")


def main() -> int:
    print_any_text()
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.split("\n\n")[0])
    parser.add_argument("--output", required=True, type=Path, help="folder in which en-de/ is created")
    parser.add_argument("--hours", type=float, default=4.0, help="approximate hours of training speech (default: 4)")
    parser.add_argument(
        "--difficulty",
        choices=["easy", "hard"],
        default="easy",
        help="hard adds names, noise, echo and varied speaking rates (default: easy)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--workers", type=int, default=multiprocessing.cpu_count(), help="number of processes (default: one per core)"
    )
    args = parser.parse_args()
    if (args.output / "en-de").exists():
        parser.error(f"{args.output / 'en-de'} already exists; name another folder or remove it first")
    if not args.hours > 0:
        parser.error(f"--hours {args.hours} must be above 0")
    if args.workers < 1:
        parser.error(f"--workers {args.workers} must be at least 1")
    make_corpus(args.output, args.hours, args.seed, args.difficulty, args.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
