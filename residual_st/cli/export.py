"""Export a model as a folder of ONNX graphs, for translation without torch; each shared matrix is stored once."""

import argparse
from pathlib import Path

from tabulate import tabulate

from residual_st.cli.arguments import add_direction_arguments, add_output_arguments, add_user_dir_argument
from residual_st.errors import InputError
from residual_st.export import PRECISIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="checkpoint of s2t_transformer or s2t_conformer, or folder of Whisper, Wav2Vec2ForCTC or HubertForCTC",
    )
    add_output_arguments(parser, "DIR", "folder to write")
    add_direction_arguments(parser, "the setting of the model's generation_config.json, else transcribe in the detected language")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="precision of the stored matrices (default: fp32)")
    parser.add_argument(
        "--streaming",
        type=int,
        nargs="?",
        const=0,
        metavar="C",
        help="export a streaming encoder that reads audio in chunks of C encoder frames (default for C: the first value above 0 of "
        "the checkpoint's --encoder-chunk-frames)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DATA",
        help="folder with the data configuration and vocabulary (default: named in the checkpoint)",
    )
    parser.add_argument(
        "--config-yaml", metavar="NAME", help="data configuration file in --data (default: named in the checkpoint)"
    )
    parser.add_argument(
        "--check",
        type=Path,
        nargs="+",
        default=[],
        metavar="AUDIO",
        help="audio files on which graphs and checkpoint are compared (default: a synthetic tone)",
    )
    parser.add_argument(
        "--web",
        type=Path,
        nargs="*",
        metavar="OTHER",
        help="add a web page that runs the model in a browser, together with the exported folders OTHER",
    )
    add_user_dir_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    import json

    from residual_st.export.any_model import export_any
    from residual_st.files import refuse_existing_folder, whole_folder
    from residual_st.languages import Direction
    from residual_st.runtime.folder import DESCRIPTION, read_folder
    from residual_st.web.static import require_ort, write_page

    refuse_existing_folder(args.output, args.force, DESCRIPTION)
    if args.web is not None and args.streaming is not None:
        raise InputError("--streaming cannot be combined with --web: the page in the browser encodes whole utterances")
    if args.web is not None:
        require_ort()
        for other in args.web:
            read_folder(other)
    missing = next((path for path in args.check if not path.is_file()), None)
    if missing:
        raise InputError(f"{missing} does not exist or is not a file; --check takes audio files")
    with whole_folder(Path(args.output)) as partial:
        direction = Direction(args.task, args.source_lang, args.target_lang)
        description = export_any(
            args.checkpoint, partial, args.precision, args.data, args.config_yaml, args.check, direction, args.streaming
        )
        if args.web is not None:
            write_page(partial, args.web)
    files, differences, not_followed = (description.get(name, {}) for name in ("files", "differences", "not_followed"))
    if args.json:
        print(json.dumps({"files": files, "differences": differences, "not_followed": not_followed}, indent=2))
        return 0
    rows = [(name, file["bytes"]) for name, file in files.items()]
    print(tabulate([*rows, ("total", sum(size for _, size in rows))], ["file", "bytes"], intfmt=","))
    on = f"{differences['seconds_of_audio']:g} s of {'audio' if args.check else 'a synthetic tone'}"
    print(
        f"largest differences from the checkpoint on {on}: encoder states {differences['states']:.2g}, log-probabilities ", end=""
    )
    print(f"{differences['log_probs']:.2g}")
    if args.precision != "fp32":
        print(f"{args.precision} rounds weights: compare the texts of your recordings with those of an export in fp32")
    if not_followed:
        settings = ", ".join(f"{name}={value}" for name, value in not_followed.items())
        print(f"not supported in generation_config.json: {settings}; texts can differ from those of transformers' generate")
    print(f"{args.output}: exported, for residual-st translate")
    return 0
