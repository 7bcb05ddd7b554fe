"""A fairseq checkpoint as a folder for the device runtime: graphs, vocabulary, and what is needed to trust them."""

import argparse
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import onnx
from fairseq.data import Dictionary
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel

from residual_st.checkpoints import model_flags
from residual_st.errors import InputError
from residual_st.export.check import check_against
from residual_st.export.decoder import cross_attention_graph, decoder_graph
from residual_st.export.encoder import encoder_graph
from residual_st.export.features import FRAME, SAMPLE_RATE
from residual_st.export.names import shorten_names
from residual_st.filterbank import N_MEL_BINS
from residual_st.models.conversion import read_model
from residual_st.models.standalone import with_task_flags
from residual_st.runtime.folder import CROSS_ATTENTION, DECODER, DESCRIPTION, ENCODER, FORMAT, checksum
from residual_st.training_data import data_folder, read_symbols

_FRAMES_PER_SECOND = 100
_LIBRARIES = ("torch", "onnx", "spox", "onnxruntime")

_README = """# An exported speech-to-text model

{arch}, {precision}, {megabytes:.1f} MB. The same model as the checkpoint that it was made from, for onnxruntime 1.21 or later; each
shared matrix is stored once.

    pip install "residual-st[runtime]"     # no torch, no fairseq
    residual-st translate FOLDER talk.wav

- `encoder.onnx`: `samples` (batch, n), 16 kHz in [-1, 1], and `lengths` -> `states`, `state_lengths`{ctc}
- `cross_attention.onnx`: `states` -> the decoder's keys and values of the source, once for each utterance
- `decoder.onnx`: one step; caches of keys and values in and out, reordered by `order`
- `model.json`: vocabulary, lengths, versions, checksums
"""


def export(
    path: str | Path,
    output: Path,
    precision: str = "fp32",
    data: Path | None = None,
    config_yaml: str | None = None,
    audio: Sequence[Path] = (),
) -> dict:
    """Write a checkpoint's model as a folder that `residual_st.runtime` reads, after checking it against the checkpoint.

    Args:
        path: checkpoint of an s2t_transformer, dense or residual.
        output: the folder, which is there and empty.
        precision: of matrices, "fp32" or "int8".
        data: folder with its data configuration and vocabulary; None for the one that the checkpoint names.
        config_yaml: the data configuration's name, in place of the checkpoint's.
        audio: files to check with; none for a made-up sound.

    Returns:
        What model.json says.

    Raises:
        InputError: if the checkpoint or the data cannot be read, or holds what has no graph.
    """
    state, model = read_model(path)
    data = data or data_folder(state)
    if data is None:
        raise InputError(f"{path} does not say where its vocabulary is; give --data DATA")
    vocabulary = _vocabulary(*read_symbols(state, data, config_yaml))
    return export_model(model, model_flags(state, path), vocabulary, output, precision, audio)


def export_model(
    model: S2TTransformerModel,
    flags: argparse.Namespace,
    vocabulary: dict,
    output: Path,
    precision: str,
    audio: Sequence[Path] = (),
) -> dict:
    """`export` of a model in evaluation mode with these flags; `vocabulary` holds what `runtime.vocabulary.Vocabulary` takes."""
    graphs = {
        ENCODER: encoder_graph(model.encoder, precision),
        CROSS_ATTENTION: cross_attention_graph(model.decoder, precision),
        DECODER: decoder_graph(model.decoder, precision),
    }
    for name, graph in graphs.items():
        shorten_names(graph)
        onnx.checker.check_model(graph, full_check=True)
        (output / name).write_bytes(graph.SerializeToString())
    description = {
        "format": FORMAT,
        "arch": flags.arch,
        "precision": precision,
        "sample_rate": SAMPLE_RATE,
        "shortest_samples": FRAME,
        "longest_seconds": with_task_flags(flags).max_source_positions / _FRAMES_PER_SECOND,
        "longest_words": model.decoder.max_positions(),
        "decoder": _decoder(model),
        "has_ctc": model.encoder.ctc_proj is not None,
        "files": {name: {"bytes": (output / name).stat().st_size, "sha256": checksum(output / name)} for name in graphs},
        "versions": {"residual-st": version("residual-st"), **{name: version(name) for name in _LIBRARIES}},
        "vocabulary": vocabulary,
    }
    _write(output, description)
    description["differences"] = vars(check_against(model, output, audio))
    _write(output, description)
    (output / "README.md").write_text(_readme(description), encoding="utf-8")
    return description


def _write(folder: Path, description: dict) -> None:
    (folder / DESCRIPTION).write_text(json.dumps(description, ensure_ascii=False, indent=1), encoding="utf-8")


def _decoder(model: S2TTransformerModel) -> dict[str, int]:
    attention = model.decoder.layers[0].self_attn
    return {"layers": len(model.decoder.layers), "heads": attention.num_heads, "head_width": attention.head_dim}


def _vocabulary(symbols: list[str], config: S2TDataConfig) -> dict:
    """Raises InputError for texts that only code of other packages could join."""
    pieces = (config.bpe_tokenizer or {}).get("bpe")
    if pieces not in (None, "sentencepiece") or (config.pre_tokenizer or {}).get("tokenizer"):
        named = pieces if pieces not in (None, "sentencepiece") else config.pre_tokenizer["tokenizer"]
        raise InputError(f"the data configuration asks for {named}; texts of sentencepiece or of whole words alone can be exported")
    if config.prepend_bos_and_append_tgt_lang_tag:
        raise InputError("the data configuration has prepend_bos_and_append_tgt_lang_tag, with which no model can be exported")
    if not config.input_feat_per_channel == N_MEL_BINS or config.use_audio_input:
        raise InputError(f"the data configuration asks for other input than {N_MEL_BINS} filterbanks, which alone are exported")
    languages = {}
    if config.prepend_tgt_lang_tag:
        tags = [symbol for symbol in symbols if SpeechToTextDataset.is_lang_tag(symbol)]
        languages = {tag.removeprefix("<lang:").removesuffix(">"): symbols.index(tag) for tag in tags}
    return describe_vocabulary(symbols, pieces or "words", languages)


def describe_vocabulary(symbols: list[str], pieces: str, languages: dict[str, int]) -> dict:
    special = Dictionary()
    numbers = {name: getattr(special, name)() for name in ("bos", "pad", "eos", "unk")}
    return {"symbols": symbols, "pieces": pieces, **numbers, "languages": languages}


def _readme(description: dict) -> str:
    ctc = ", `ctc_log_probs`" if description["has_ctc"] else ""
    megabytes = sum(file["bytes"] for file in description["files"].values()) / 1e6
    return _README.format(arch=description["arch"], precision=description["precision"], megabytes=megabytes, ctc=ctc)
