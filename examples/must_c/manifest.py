"""The files that fairseq's speech_to_text task reads: TSV manifests, a SentencePiece vocabulary and a data configuration."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece
import yaml

from residual_st.audio.filterbank import N_MEL_BINS
from residual_st.audio.reading import SAMPLE_RATE
from residual_st.errors import InputError
from residual_st.files import atomically

COLUMNS = ["id", "audio", "n_frames", "tgt_text", "speaker"]
MIN_FRAMES, MAX_TRAIN_FRAMES = 5, 3000  # fairseq's length filters, in frames of 10 ms
# SpecAugment (Park et al. 2019, arXiv 1904.08779): LibriSpeech basic and double, fairseq's choice for one language and for several
SPECAUGMENT = {
    "lb": {"freq_mask_F": 27, "freq_mask_N": 1, "time_mask_N": 1, "time_mask_T": 100, "time_mask_p": 1.0, "time_wrap_W": 0},
    "ld": {"freq_mask_F": 27, "freq_mask_N": 2, "time_mask_N": 2, "time_mask_T": 100, "time_mask_p": 1.0, "time_wrap_W": 0},
}


def write_manifest(rows: Iterable[dict], path: Path, columns: list[str] = COLUMNS) -> None:
    """Write rows in the format of fairseq's dataset: tab-separated, one row per line, without quoting and escaping.

    (fairseq's own recipe escapes double quotes with a backslash, which its dataset then takes for a part of the sentence.)
    """
    with atomically(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        file.write("\t".join(columns) + "\n")
        for row in rows:
            file.write("\t".join(" ".join(str(row[column]).split()) for column in columns) + "\n")


def rejection(row: dict, is_train: bool) -> str | None:
    """Reason for which fairseq's recipe filters a row; None if it is kept."""
    if row["n_frames"] < MIN_FRAMES:
        return f"short speech (<{MIN_FRAMES} frames)"
    if not row["tgt_text"]:
        return "empty sentence"
    if is_train and row["n_frames"] > MAX_TRAIN_FRAMES:
        return f"long speech (>{MAX_TRAIN_FRAMES} frames)"
    return None


def filter_rows(rows: Iterable[dict], is_train: bool, counts: Counter) -> Iterator[dict]:
    """Yield the rows that are kept. Counts the others by reason, and these as `kept`."""
    for row in rows:
        reason = rejection(row, is_train)
        counts[reason or "kept"] += 1
        if reason is None:
            yield row


def train_vocabulary(sentences: Iterable[str], prefix: Path, kind: str, size: int, symbols: list[str] | None = None) -> None:
    """Train SentencePiece and write `prefix.model`, `prefix.vocab` and fairseq's dictionary `prefix.txt`.

    Ids 0-3 are <s>, <pad>, </s> and <unk>, as in fairseq. Raises InputError if the text does not give `size` pieces.
    """
    with tempfile.TemporaryDirectory(dir=prefix.parent) as scratch:
        text, model = Path(scratch) / "text", Path(scratch) / "model"
        with open(text, "w", encoding="utf-8") as file:
            file.writelines(sentence + "\n" for sentence in sentences)
        try:
            sentencepiece.SentencePieceTrainer.train(
                input=str(text),
                model_prefix=str(model),
                model_type=kind,
                vocab_size=size,
                character_coverage=1.0,
                bos_id=0,
                pad_id=1,
                eos_id=2,
                unk_id=3,
                user_defined_symbols=symbols or [],
                num_threads=os.cpu_count(),
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            last_line = str(error).strip().splitlines()[-1]
            _place, _, reason = last_line.rpartition("] ")
            raise InputError(f"SentencePiece cannot train a {kind} vocabulary of size {size}: {reason}") from error
        processor = sentencepiece.SentencePieceProcessor(model_file=f"{model}.model")
        with open(f"{model}.txt", "w", encoding="utf-8") as file:
            file.writelines(f"{processor.id_to_piece(piece)} 1\n" for piece in range(4, processor.get_piece_size()))
        for suffix in (".vocab", ".txt", ".model"):
            os.replace(f"{model}{suffix}", f"{prefix}{suffix}")


def write_config(
    path: Path, vocabulary: Path, policy: str, cmvn: str, statistics: Path | None, prepend_tgt_lang_tag: bool = False
) -> None:
    """Write the data configuration.

    Args:
        policy: one of SPECAUGMENT, or "none".
        cmvn: normalisation of features at loading time: "utterance", "global" or "none".
        statistics: statistics file for "global".
    """
    transforms = [] if cmvn == "none" else [f"{cmvn}_cmvn"]
    config = {
        "bpe_tokenizer": {"bpe": "sentencepiece", "sentencepiece_model": str(vocabulary.with_suffix(".model").absolute())},
        "input_channels": 1,
        "input_feat_per_channel": N_MEL_BINS,
        "sample_rate": SAMPLE_RATE,
        "transforms": {"*": transforms, "_train": [*transforms]},
        "vocab_filename": vocabulary.with_suffix(".txt").name,
    }
    if statistics:
        config["global_cmvn"] = {"stats_npz_path": str(statistics.absolute())}
    if policy != "none":
        config["specaugment"] = SPECAUGMENT[policy]
        config["transforms"]["_train"].append("specaugment")
    if prepend_tgt_lang_tag:
        config["prepend_tgt_lang_tag"] = True
    with atomically(path) as partial, open(partial, "w", encoding="utf-8") as file:
        yaml.dump(config, file)
