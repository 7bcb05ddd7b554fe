"""Export of fairseq checkpoints as folders for the device runtime."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.models import BaseFairseqModel

from residual_st.audio.lengths import DEFAULT, FRAMES_PER_SECOND, Lengths
from residual_st.errors import InputError
from residual_st.export.check import check_against
from residual_st.export.decoder import cross_attention_graph, decoder_graph
from residual_st.export.encoder import encoder_graph
from residual_st.export.fairseq_decoder import decoder_parts
from residual_st.export.fairseq_input import filterbank_of
from residual_st.export.folder import write_folder
from residual_st.export.streaming import streaming_form, streaming_graph
from residual_st.fairseq.checkpoints import model_flags
from residual_st.fairseq.conversion import read_model
from residual_st.fairseq.kinds import EncoderParts, kind_of
from residual_st.fairseq.languages import languages_of
from residual_st.fairseq.manifest import trained_lengths
from residual_st.fairseq.model_input import ModelInput, model_input
from residual_st.fairseq.standalone import with_task_flags
from residual_st.fairseq.streaming import chunks_of, refuse_whole_utterances
from residual_st.fairseq.training_data import data_folder, read_symbols, train_subset
from residual_st.languages import Direction, Languages
from residual_st.runtime.folder import CROSS_ATTENTION, DECODER, ENCODER


def export_checkpoint(
    path: str | Path,
    output: Path,
    precision: str = "fp32",
    data: Path | None = None,
    config_yaml: str | None = None,
    audio: Sequence[Path] = (),
    direction: Direction = Direction(),  # noqa: B008 - frozen
    chunk_frames: int | None = None,
) -> dict:
    """Export a checkpoint as a folder for `residual_st.runtime`, and check it against the checkpoint.

    Args:
        path: checkpoint of an s2t_transformer or s2t_conformer, dense or shared.
        output: an existing empty folder to write to.
        precision: precision of matrices, one of `PRECISIONS`.
        data: folder with the data configuration and vocabulary; None for the one named in the checkpoint.
        config_yaml: name of the data configuration; None for the one named in the checkpoint.
        audio: files for the check; empty for a synthetic sound.
        direction: the exported folder's default direction.
        chunk_frames: encoder frames per chunk for a streaming encoder, 0 for the model's own setting; None for an encoder that
            reads whole utterances.

    Returns:
        The contents of model.json.

    Raises:
        InputError: if the checkpoint or the data cannot be read, the model has unsupported parts, or does not have the direction.
    """
    state, model = read_model(path)
    encoder_parts(model)  # refuses unsupported models before searching for the data
    folder = data or data_folder(state)
    if folder is None:
        raise InputError(f"{path} does not name the folder of its vocabulary; give --data DATA")
    symbols, config = read_symbols(state, folder, config_yaml)
    languages = languages_of(symbols, config)
    if direction != Direction():
        languages = replace(languages, default=languages.resolved(direction))
    vocabulary = _vocabulary(symbols, config, languages)
    flags = model_flags(state, path)
    lengths = trained_lengths(folder, train_subset(state), with_task_flags(flags).max_source_positions)
    source = model_input(config)
    return export_model(model, flags, source, vocabulary, languages, output, precision, audio, lengths, chunk_frames)


def export_model(
    model: BaseFairseqModel,
    flags: argparse.Namespace,
    source: ModelInput,
    vocabulary: dict,
    languages: Languages,
    output: Path,
    precision: str,
    audio: Sequence[Path] = (),
    lengths: Lengths = DEFAULT,
    chunk_frames: int | None = None,
) -> dict:
    """`export_checkpoint` for a model in evaluation mode, with its flags, input, vocabulary (from `describe_vocabulary`) and
    languages."""
    encoder, decoder, filterbank = encoder_parts(model), decoder_parts(model.decoder), filterbank_of(source)
    longest_seconds = with_task_flags(flags).max_source_positions / FRAMES_PER_SECOND
    if chunk_frames is None:
        graph, streaming = encoder_graph(encoder, filterbank, precision), {}
    else:
        refuse_whole_utterances(source)
        chunks = chunks_of(model.encoder)
        size, longest = chunks.streamed(chunk_frames or None), min(lengths.longest, longest_seconds)
        form = streaming_form(encoder, filterbank, size, chunks.left, longest)
        graph, streaming = streaming_graph(encoder, filterbank, form, precision), {"streaming": asdict(form)}
        model.encoder.chunks = replace(chunks, frames=(size,))  # for the comparison
    graphs = {
        ENCODER: graph,
        CROSS_ATTENTION: cross_attention_graph(decoder, precision),
        DECODER: decoder_graph(decoder, precision),
    }
    attention = model.decoder.layers[0].self_attn
    described = {
        "arch": flags.arch,
        "precision": precision,
        "sample_rate": filterbank.sample_rate,
        "shortest_samples": filterbank.frame,
        "longest_seconds": longest_seconds,
        "lengths": vars(lengths),
        "longest_words": model.decoder.max_positions(),
        "decoder": {"layers": len(model.decoder.layers), "heads": attention.num_heads, "head_width": attention.head_dim},
        **streaming,
        "has_ctc": encoder.ctc is not None,
        "vocabulary": vocabulary,
        "languages": asdict(languages),
    }
    return write_folder(output, graphs, described, partial(check_against, _Reference(model, source), audio))


def encoder_parts(model: BaseFairseqModel) -> EncoderParts:
    """The parts of a model's encoder for the graph. Raises InputError for an unsupported class."""
    part = kind_of(type(model)).encoder
    encoder = getattr(model, part.root, None) if part else None
    parts = part.parts(encoder) if part else None
    if parts is None:
        raise InputError(
            f"a model with {type(encoder).__name__} cannot be exported; it must be an s2t_transformer or s2t_conformer of any size"
        )
    return parts


class _Reference:
    """The source model for `check_against`, on features from fairseq's transforms."""

    def __init__(self, model: BaseFairseqModel, source: ModelInput):
        self._model, self._source = model, source

    def encode(self, samples: np.ndarray) -> np.ndarray:
        frames = self._source.features(samples)
        self._encoded = self._model.encoder(frames[None], torch.tensor([len(frames)]))
        return self._encoded["encoder_out"][0].transpose(0, 1).numpy()

    def log_probs(self, tokens: list[int]) -> np.ndarray:
        return self._model.decoder(torch.tensor([tokens]), encoder_out=self._encoded)[0][0, -1].log_softmax(-1).numpy()

    def greedy(self, direction: Direction, most: int) -> None:
        """None: in fairseq, only fairseq-generate joins pieces of words."""


def _vocabulary(symbols: list[str], config: S2TDataConfig, languages: Languages) -> dict:
    """The vocabulary's description. Raises InputError for tokenizers that need other packages."""
    pieces = (config.bpe_tokenizer or {}).get("bpe")
    if pieces not in (None, "sentencepiece") or (config.pre_tokenizer or {}).get("tokenizer"):
        named = pieces if pieces not in (None, "sentencepiece") else config.pre_tokenizer["tokenizer"]
        raise InputError(
            f"the data configuration names {named}, which cannot be exported; it must be sentencepiece, or whole words"
        )
    if config.prepend_bos_and_append_tgt_lang_tag:
        raise InputError("the data configuration has prepend_bos_and_append_tgt_lang_tag, which cannot be exported")
    return describe_vocabulary(symbols, pieces or "words", languages)


def describe_vocabulary(symbols: list[str], pieces: str, languages: Languages) -> dict:
    """Arguments of `runtime.vocabulary.Vocabulary` for a fairseq dictionary. fairseq's start symbol is its end symbol."""
    special = Dictionary()
    numbers = {"start": special.eos(), "begin": [], "eos": special.eos(), "pad": special.pad(), "unk": special.unk()}
    hidden = [special.bos(), special.pad(), special.eos(), *languages.numbers]
    return {"symbols": symbols, "pieces": pieces, **numbers, "hidden": hidden}
