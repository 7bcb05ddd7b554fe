"""Convert a dense fairseq checkpoint to a Hugging Face Speech2Text folder, or such a folder to a checkpoint."""

import argparse
import json
from pathlib import Path

from residual_st.cli.arguments import add_output_arguments
from residual_st.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="checkpoint of a dense s2t_transformer, or folder of a Speech2Text model")
    add_output_arguments(parser, "OUTPUT", "folder or checkpoint to write")
    parser.add_argument(
        "--data", type=Path, metavar="DATA", help="folder with the data configuration and vocabulary; required for a checkpoint"
    )
    parser.add_argument(
        "--config-yaml", metavar="NAME", help="data configuration file in --data (default: named in the checkpoint)"
    )


def run(args: argparse.Namespace) -> int:
    if Path(args.source).is_dir():
        if args.data or args.config_yaml:
            raise InputError("--data and --config-yaml are for a checkpoint; a folder contains its vocabulary")
        return _to_checkpoint(args)
    if args.data is None:
        raise InputError(
            "--data DATA is missing: a checkpoint contains no vocabulary; name the folder of data that it was trained on"
        )
    return _to_folder(args)


def _to_folder(args: argparse.Namespace) -> int:
    from residual_st import huggingface
    from residual_st.fairseq.checkpoints import model_flags
    from residual_st.fairseq.conversion import read_model
    from residual_st.fairseq.kinds import kind_of
    from residual_st.fairseq.model_input import model_input
    from residual_st.fairseq.standalone import with_task_flags
    from residual_st.fairseq.training_data import read_vocabulary
    from residual_st.files import whole_folder
    from residual_st.huggingface import speech2text

    huggingface.refuse_existing(args.output, args.force)
    state, model = read_model(args.source, residual=False)
    if kind_of(type(model)).name != "s2t_transformer":
        raise InputError(
            f"{args.source} has --arch {model_flags(state, args.source).arch}; only s2t_transformer can be converted to Speech2Text"
        )
    dtype = state["model"]["decoder.embed_tokens.weight"].dtype  # the loaded model is in float32, whatever the file's precision is
    flags, weights = with_task_flags(model_flags(state, args.source)), model.to(dtype).state_dict()
    symbols, sentencepiece_model, config = read_vocabulary(state, args.data, args.config_yaml)
    extractor = speech2text.feature_extractor(model_input(config))
    converted = speech2text.to_speech2text(flags, weights).to(dtype)
    with whole_folder(Path(args.output)) as partial:
        speech2text.save_processor(partial, symbols, sentencepiece_model, extractor)
        speech2text.save_ctc_head(partial, weights, getattr(flags, "ctc_weight", 0.0))
        converted.save_pretrained(partial)
    print(f"{args.output}: Speech2Text folder, for transformers' from_pretrained")
    return 0


def _to_checkpoint(args: argparse.Namespace) -> int:
    from residual_st import huggingface
    from residual_st.fairseq.checkpoints import save_checkpoint, stripped
    from residual_st.fairseq.conversion import with_plain_flags
    from residual_st.fairseq.standalone import parse_model_flags, with_task_flags
    from residual_st.files import refuse_existing
    from residual_st.huggingface import speech2text
    from residual_st.huggingface.description import forms_of

    refuse_existing(args.output, args.force)
    model = huggingface.load(args.source)
    if not isinstance(model, speech2text.Speech2TextForConditionalGeneration):
        raise InputError(f"{args.source} has model_type {model.config.model_type}; only speech_to_text can be converted to fairseq")
    if forms_of(model.config):
        raise InputError(f"{args.source} has shared layers; convert it to a dense folder first, with residual-st expand")
    arguments, task_flags, weights = speech2text.from_speech2text(model)
    head, ctc_weight = speech2text.read_ctc_head(Path(args.source))
    flags = parse_model_flags("s2t_transformer", arguments)
    vars(flags).update(task_flags, ctc_weight=ctc_weight, task="speech_to_text", criterion="label_smoothed_cross_entropy")
    save_checkpoint(with_plain_flags(stripped({"args": with_task_flags(flags), "model": {**weights, **head}})), args.output)
    entries = speech2text.input_entries(Path(args.source))
    addition = f" and {json.dumps(entries)}" if entries else ""
    print(f"{args.output}: s2t_transformer, for fairseq-generate with a data configuration with the same vocabulary{addition}")
    return 0
