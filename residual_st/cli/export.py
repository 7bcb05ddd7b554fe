"""Write a checkpoint as a folder of ONNX graphs, for translation without torch; every shared matrix is stored once."""

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
    add_direction_arguments(parser, "as generate does it; else transcribe what is detected")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="precision of the matrices (default: fp32)")
    parser.add_argument(
        "--streaming",
        type=int,
        nargs="?",
        const=0,
        metavar="C",
        help="an encoder that is fed while somebody speaks, in chunks of C encoder frames (default: the first above 0 of the "
        "checkpoint's --encoder-chunk-frames)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DATA", help="folder with its data configuration and vocabulary (default: the checkpoint's)"
    )
    parser.add_argument("--config-yaml", metavar="NAME", help="data configuration in that folder (default: the checkpoint's)")
    parser.add_argument(
        "--check",
        type=Path,
        nargs="+",
        default=[],
        metavar="AUDIO",
        help="audio to check the graphs on (default: a tone)",
    )
    parser.add_argument(
        "--web",
        type=Path,
        nargs="*",
        metavar="OTHER",
        help="add a page that runs it in a browser, beside other exported ones",
    )
    add_user_dir_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


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
        raise InputError(f"{missing} does not exist or is not a file; give audio to check with")
    with whole_folder(Path(args.output)) as partial:
        asked = Direction(args.task, args.source_lang, args.target_lang)
        description = export_any(
            args.checkpoint, partial, args.precision, args.data, args.config_yaml, args.check, asked, args.streaming
        )
        if args.web is not None:
            write_page(partial, args.web)
    files, differences, not_followed = (description.get(name, {}) for name in ("files", "differences", "not_followed"))
    if args.json:
        print(json.dumps({"files": files, "differences": differences, "not_followed": not_followed}, indent=2))
        return 0
    rows = [(name, file["bytes"]) for name, file in files.items()]
    print(tabulate([*rows, ("total", sum(size for _, size in rows))], ["file", "bytes"], intfmt=","))
    on = f"{differences['seconds_of_audio']:g} s of {'audio' if args.check else 'a made-up tone'}"
    print(f"largest differences to the checkpoint on {on}: states {differences['states']:.2g}, words' log-probabilities ", end="")
    print(f"{differences['log_probs']:.2g}")
    if not_followed:
        settings = ", ".join(f"{name}={value}" for name, value in not_followed.items())
        print(f"its texts can differ from generate's, which follows {settings} of generation_config.json")
    print(f"{args.output}: for residual-st translate")
    return 0
