"""Export of any supported model: fairseq checkpoints and Hugging Face folders."""

from collections.abc import Sequence
from pathlib import Path

from residual_st.errors import InputError
from residual_st.languages import Direction


def export_any(
    source: str | Path,
    output: Path,
    precision: str = "fp32",
    data: Path | None = None,
    config_yaml: str | None = None,
    audio: Sequence[Path] = (),
    direction: Direction = Direction(),  # noqa: B008 - frozen
    streaming: int | None = None,
) -> dict:
    """`export_checkpoint` for a checkpoint, `export_whisper` or `export_ctc` for a folder, with their arguments.

    Raises:
        InputError: see these; also for arguments that do not apply to folders.
    """
    if not Path(source).is_dir():
        from residual_st.export.fairseq_model import export_checkpoint

        return export_checkpoint(source, output, precision, data, config_yaml, audio, direction, streaming)
    if data or config_yaml:
        raise InputError("--data and --config-yaml are for a checkpoint; a folder contains its vocabulary")
    if streaming is not None:
        raise InputError("--streaming needs a fairseq checkpoint trained with --encoder-chunk-frames, not a folder")
    from residual_st.export.ctc_model import MODELS, export_ctc
    from residual_st.export.whisper_model import export_whisper
    from residual_st.huggingface import read_config

    export = export_ctc if read_config(Path(source))["architectures"][0] in MODELS else export_whisper
    return export(source, output, precision, audio, direction)
