"""A small run of all commands that read or write checkpoints, in the current environment.

    python .ci/smoke.py CORPUS WORK [CHECKPOINT …]

CORPUS is a prepared corpus. Trains for 20 updates, resumes half-way, averages, translates, compresses, expands, and reads
checkpoints of other environments; WORK then contains `dense.pt` and `residual.pt` for other environments.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from residual_st.fairseq.checkpoints import load_checkpoint

FLAGS = {
    "config-yaml": "config_words.yaml", "train-subset": "train_st", "valid-subset": "dev_st", "task": "speech_to_text",
    "encoder-layers": 6, "encoder-embed-dim": 32, "encoder-ffn-embed-dim": 48, "encoder-attention-heads": 4,
    "decoder-layers": 1, "decoder-attention-heads": 4, "conv-channels": 32, "label-smoothing": 0.1, "optimizer": "adam", "lr": 2e-3,
    "criterion": "label_smoothed_cross_entropy_with_residual", "max-tokens": 4000, "num-workers": 1, "cpu": "true", "seed": 1,
    "save-interval-updates": 10, "max-update": 20,
}  # fmt: skip


def run(*command) -> str:
    result = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True)
    if result.returncode:
        said = f"{result.stdout[-1500:]}\n{result.stderr[-3000:]}"
        raise SystemExit(f"{' '.join(map(str, command))} ended with {result.returncode}\n{said}")
    return result.stdout


def main() -> None:
    corpus, work, others = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute(), sys.argv[3:]
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(corpus, work / "data", ignore=shutil.ignore_patterns("data"))
    # words as they stand, where SentencePiece is not installed
    config = yaml.safe_load((corpus / "config_st.yaml").read_text())
    config.pop("bpe_tokenizer")
    (work / "data" / "config_words.yaml").write_text(yaml.safe_dump(config))
    (work / "run.yaml").write_text(
        yaml.safe_dump({"data": str(work / "data"), **{name: str(value) for name, value in FLAGS.items()}})
    )
    for name, arch in {"dense": "s2t_transformer_s", "residual": "s2t_residual_transformer_s"}.items():
        train = ["residual_st", "train", work / "run.yaml", f"arch={arch}", f"save-dir={work / name}"]
        run(*train, "max-update=10")
        run(*train)
        updates = load_checkpoint(work / name / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"]
        assert updates == 20, updates
        run("residual_st", "average", work / name, "--num-update-checkpoints", 2, "--output", work / f"{name}.pt")
    data = ["--calibration", work / "data", "--calibration-batches", 1, "--refine-updates", 2]
    run("residual_st", "compress", work / "dense.pt", "--output", work / "compressed.pt", "--group-size", 3, *data)
    run("residual_st", "expand", work / "compressed.pt", "--output", work / "expanded.pt")
    options = [
        "--user-dir",
        run("residual_st", "user-dir").strip(),
        "--task",
        "speech_to_text",
        "--config-yaml",
        "config_words.yaml",
    ]
    options += ["--gen-subset", "dev_st", "--max-tokens", 20000, "--beam", 2, "--max-len-b", 5, "--cpu"]
    for checkpoint in [work / "residual.pt", work / "expanded.pt", *others]:
        output = run("fairseq_cli.generate", work / "data", *options, "--path", checkpoint)
        translations = sum(line.startswith("H-") for line in output.splitlines())
        assert translations == len((corpus / "dev_st.tsv").read_text().splitlines()) - 1, translations
        run("residual_st", "inspect", checkpoint)
    also = f", and reads {len(others)} checkpoints of others" if others else ""
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}: trains, resumes, averages, translates, compresses{also}")


if __name__ == "__main__":
    main()
