"""The benefit of calibrating on the voice and the channel that a device will encounter.

    python benchmarks/calibration_voice.py WHISPER PROMPTS CORPUS [--audio NAME …] [--sizes 0.6 …] [--updates 0 200]

WHISPER is a Hugging Face folder of Whisper. PROMPTS contains telephone prompts of one speaker: `train/*`, `test/*` and
`test.tsv` (name, English). CORPUS is a corpus in MuST-C's layout of other speakers, not recorded by telephone. Whisper is
compressed on the training audio of the prompts, of the corpus, and of the corpus sent through the telephone's 8 kHz (`prompts`,
`corpus`, `telephone`), on equally many half-minutes of each, and tested on the test prompts and the first lines of the corpus's
test sets.
Rows go to results/calibration_voice.jsonl.
"""

import argparse
import tempfile
from pathlib import Path

import soundfile
import soxr
from human_speech import RATE, InTransformers, utterances, word_errors
from refinement import device, refined, transcripts

from residual_st.audio.reading import read_audio
from residual_st.benchmark import results
from residual_st.compression import CompressionConfig, compress
from residual_st.compression.moments import gather
from residual_st.files import read_lines
from residual_st.huggingface import audio_calibration, load
from residual_st.progress import show_progress
from residual_st.stacks import stack_of

RESULTS = Path(__file__).parent / "results" / "calibration_voice.jsonl"
BATCHES, REFINE_BATCHES = 16, 12  # half-minutes, all that the prompts have
AUDIO = ("prompts", "corpus", "telephone")
LINES = 60  # of the corpus
TELEPHONE = 8_000  # Hz


def through_the_telephone(audio: Path, folder: Path) -> Path:
    for path in sorted(audio.iterdir()):
        samples = read_audio(path, TELEPHONE)
        soundfile.write(folder / f"{path.stem}.wav", soxr.resample(samples, TELEPHONE, RATE), RATE)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("whisper", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--audio", nargs="+", choices=AUDIO, default=AUDIO, metavar="NAME", help="audio to calibrate on")
    parser.add_argument("--sizes", nargs="+", type=float, default=[0.6])
    parser.add_argument("--updates", nargs="+", type=int, default=[0, 200])
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    show_progress()
    rows = [line.split("\t") for line in read_lines(args.prompts / "test.tsv")[1:]]
    recordings = {path.stem: path for path in (args.prompts / "test").iterdir()}
    tests = {
        "prompts": [(read_audio(recordings[name], RATE), text) for name, text in rows],
        "corpus": utterances(args.corpus)[:LINES],
    }
    actors = args.corpus / "data" / "train" / "wav"
    dense = load(args.whisper).to(device()).float()

    def append(model, **case) -> None:
        for test, pairs in tests.items():
            texts = transcripts(InTransformers(model, args.whisper), [samples for samples, _ in pairs])
            scores = word_errors([text for _, text in pairs], texts)
            results.append(args.output, {"test": test, **case, "seed": 1, **scores, **results.provenance()})

    append(dense, system="dense", calibrated_on=None, updates=0)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.audio:
            source = args.prompts / "train" if name == "prompts" else actors
            if name == "telephone":
                source = through_the_telephone(actors, Path(folder))
            calibration, _ = audio_calibration(dense, args.whisper, source, BATCHES, 1, REFINE_BATCHES if any(args.updates) else 0)
            moments = gather(dense, stack_of(dense), calibration)
            for size in args.sizes:
                model = load(args.whisper).to(dense.device).float()
                compress(model, CompressionConfig(weight_fraction=size), calibration=calibration, moments=moments)
                for updates in args.updates:
                    refined_model, figures = refined(dense, model, calibration, updates)
                    append(refined_model, system=f"compressed-{size}", calibrated_on=name, updates=updates, **figures)


if __name__ == "__main__":
    main()
