"""Compare two prepared MuST-C folders, such as one made by fairseq's prep_mustc_data.py and one by examples/must_c/prepare.py.

python benchmarks/compare_preparation.py FAIRSEQ/en-de RECIPE/en-de --task st
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import yaml
from fairseq.data.audio.audio_utils import get_features_or_waveform
from tqdm import tqdm

SPLITS = ["train", "dev", "tst-COMMON", "tst-HE"]


def read_rows(folder: Path, split: str, task: str) -> list[dict]:
    with open(folder / f"{split}_{task}.tsv", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.split("\n\n")[0])
    parser.add_argument("folders", nargs=2, type=Path)
    parser.add_argument("--task", choices=["asr", "st"], default="st")
    args = parser.parse_args()
    largest, largest_audible, values, audible = 0.0, 0.0, 0, 0
    for split in SPLITS:
        pair = [read_rows(folder, split, args.task) for folder in args.folders]
        names = [list(rows[0]) for rows in pair]
        differing = {name for a, b in zip(*pair) for name in names[0] if name != "audio" and a[name] != b.get(name)}
        same = len(pair[0]) == len(pair[1]) and names[0] == names[1] and not differing
        print(f"{split}: {len(pair[0])} and {len(pair[1])} rows; {'no column differs' if same else f'differing: {differing}'}")
        for a, b in zip(tqdm(pair[0], desc=split, leave=False), pair[1]):
            features = [get_features_or_waveform(row["audio"]) for row in (a, b)]
            difference = np.abs(features[0] - features[1])
            audible_bins = features[0] > 0  # above the power of one step of a 16-bit sample
            largest = max(largest, difference.max())
            largest_audible = max(largest_audible, difference[audible_bins].max(initial=0))
            values += audible_bins.size
            audible += audible_bins.sum()
    print(f"filterbanks: largest absolute difference {largest:.2g} over {values:,} values")
    print(f"filterbanks above the resolution of 16 bits: {largest_audible:.2g} over {audible / values:.1%} of the values")
    configs = [yaml.safe_load((folder / f"config_{args.task}.yaml").read_text()) for folder in args.folders]
    for config in configs:
        config.setdefault("sample_rate", 16_000)  # fairseq's defaults
        config["bpe_tokenizer"]["sentencepiece_model"] = Path(config["bpe_tokenizer"]["sentencepiece_model"]).name
    print(f"configuration: {'the same' if configs[0] == configs[1] else configs}")
    vocabularies = [(folder / configs[0]["vocab_filename"]).read_text() for folder in args.folders]
    print(f"vocabulary: {'the same' if vocabularies[0] == vocabularies[1] else 'differs'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
