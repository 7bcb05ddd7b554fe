"""The contents of an exported folder, checked before use."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from residual_st.audio.lengths import DEFAULT, Lengths
from residual_st.errors import InputError
from residual_st.languages import Direction, Languages
from residual_st.runtime.earlier_formats import updated
from residual_st.runtime.fallback import Fallback
from residual_st.runtime.settings import FAIRSEQ, Settings
from residual_st.runtime.streaming import Streaming
from residual_st.runtime.timestamps import TimeStamps
from residual_st.runtime.vocabulary import Vocabulary

DESCRIPTION = "model.json"
WHISPER = "whisper"  # arch of Whisper folders
FORMAT = 3  # format number of folders; increased when older runtimes cannot read the new format
READABLE = (1, 2, FORMAT)
ENCODER, CROSS_ATTENTION, DECODER = GRAPHS = ("encoder.onnx", "cross_attention.onnx", "decoder.onnx")
LARGEST_DESCRIPTION = 64 * 2**20  # bytes
FAIRSEQ_BLANK = 0  # fairseq's CTC loss uses the dictionary's first symbol
LARGEST = {
    "sample_rate": 192_000,
    "shortest_samples": 192_000,
    "longest_seconds": 3600,
    "longest_words": 100_000,
    "layers": 1000,
    "heads": 1000,
    "head_width": 10_000,
    "beam": 100,
    "max_len_b": 100_000,
}
LARGEST_SETTING = 100_000


@dataclass(frozen=True)
class Folder:
    """An exported model.

    Attributes:
        path: the folder.
        vocabulary: output vocabulary.
        languages: tasks and languages.
        timestamps: timestamp words; None if the model has none.
        fallback: fallback rules, for a model with timestamps.
        sample_rate: Hz.
        shortest_samples: minimum length of an utterance in samples.
        longest_seconds: maximum length of an utterance for the encoder.
        lengths: preferred lengths of the segments of a recording.
        settings: search settings that replace fairseq-generate's.
        description: the whole of model.json.
        streaming: shape of an encoder that reads chunk by chunk; None for one that reads whole utterances.
        longest_words: maximum number of decoder positions: text and prompt.
        layers, heads, head_width: of the decoder. 0, like `longest_words`, for a CTC model without a decoder.
    """

    path: Path
    vocabulary: Vocabulary
    languages: Languages
    timestamps: TimeStamps | None
    fallback: Fallback
    sample_rate: int
    shortest_samples: int
    longest_seconds: float
    lengths: Lengths
    settings: Settings
    description: dict[str, Any]
    streaming: Streaming | None = None
    longest_words: int = 0
    layers: int = 0
    heads: int = 0
    head_width: int = 0

    @property
    def has_decoder(self) -> bool:
        return self.layers > 0

    @property
    def pads_to_longest(self) -> bool:
        """Whether the encoder pads shorter utterances and returns states for the padding too."""
        return bool(self.description["arch"] == WHISPER)

    def by_ctc(self) -> "Folder":
        """The model with its CTC head in place of the decoder; the model itself if it has no decoder.

        Raises:
            InputError: if it has no CTC head, or has several target languages, which only the decoder can be told.
        """
        if not self.has_decoder:
            return self
        if not self.description.get("has_ctc"):
            raise InputError(f"{self.path} has no CTC head; decoding by CTC needs a model trained with --ctc-weight")
        if self.languages.targets:
            languages = ", ".join(self.languages.targets)
            raise InputError(f"{self.path} has the target languages {languages}, and CTC cannot choose one; use its decoder")
        return replace(
            self,
            vocabulary=replace(self.vocabulary, eos=FAIRSEQ_BLANK),
            settings=replace(self.settings, beam=1),
            longest_words=0,
            layers=0,
            heads=0,
            head_width=0,
        )


def read_folder(path: str | Path) -> Folder:
    """Read an exported folder. Raises InputError if `residual-st export` did not write it, or a file was changed since."""
    path = Path(path)
    if not (path / DESCRIPTION).is_file():
        raise InputError(f"{path} has no {DESCRIPTION}; give a folder written by residual-st export")
    if (path / DESCRIPTION).stat().st_size > LARGEST_DESCRIPTION:
        raise InputError(f"{path / DESCRIPTION} is larger than {LARGEST_DESCRIPTION} bytes, so residual-st export did not write it")
    try:
        description = json.loads((path / DESCRIPTION).read_bytes())
        if description["format"] not in READABLE:
            readable = ", ".join(map(str, READABLE))
            raise InputError(f"{path} has format {description['format']}; this release reads formats {readable}")
        if description["format"] < FORMAT:
            description = {**updated(description), "format": FORMAT}
        decoder = description["decoder"]
        for name in GRAPHS if decoder else (ENCODER,):
            _check(path / name, description["files"][name])
            if weights_of(name) in description["files"] or os.path.lexists(path / weights_of(name)):
                _check_weights(path / weights_of(name), description["files"][weights_of(name)])
        numbers = {name: description[name] for name in ("sample_rate", "shortest_samples", "longest_seconds")}
        if decoder:
            numbers |= {"longest_words": description["longest_words"]}
            numbers |= {name: decoder[name] for name in ("layers", "heads", "head_width")}
        settings = description.get("settings", {})
        for name, number in {**numbers, **{name: settings[name] for name in LARGEST if name in settings}}.items():
            if not isinstance(number, (int, float)) or not 0 < number <= LARGEST[name]:
                raise ValueError(f"{name} is {number!r}, but must be a number above 0 and up to {LARGEST[name]:,}")
        for name, number in settings.items():
            kind = type(getattr(FAIRSEQ, name))
            if not isinstance(number, (int, kind)) or not abs(number) <= LARGEST_SETTING:
                raise ValueError(f"{name} is {number!r}, but must be {kind.__name__}, up to {LARGEST_SETTING:,}")
        return Folder(
            path,
            **_words(description),
            fallback=Fallback(**description.get("fallback", {})),
            settings=Settings(**settings),
            lengths=_lengths(description),
            streaming=Streaming(**description["streaming"]) if "streaming" in description else None,
            **numbers,
            description=description,
        )
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path / DESCRIPTION} is damaged: {type(error).__name__} {error}") from error


def _words(description: dict[str, Any]) -> dict[str, Any]:
    """The vocabulary, and the fields that refer to its words."""
    vocabulary, fields = Vocabulary(**description["vocabulary"]), description["languages"]
    languages = Languages(**{**fields, "default": Direction(**fields.get("default", {}))})
    vocabulary.check(languages.numbers)
    timestamps = description.get("timestamps")
    if timestamps is not None:
        timestamps = TimeStamps(**timestamps)
        vocabulary.check([timestamps.none, timestamps.first, timestamps.silence])
    return {"vocabulary": vocabulary, "languages": languages, "timestamps": timestamps}


def weights_of(graph: str) -> str:
    """Name of the weight file of a graph above 2 GB."""
    return f"{graph}.data"


def _check_weights(path: Path, written: dict[str, Any]) -> None:
    if path.is_symlink():
        raise InputError(f"{path} is a link, and onnxruntime does not follow links out of its folder; copy the file there")
    _check(path, written)


def _lengths(description: dict[str, Any]) -> Lengths:
    """Segment lengths. Folders of earlier releases do not store them; Whisper's are as long as its window."""
    window = description["longest_seconds"]
    unknown = Lengths(window, window) if description["arch"] == WHISPER else DEFAULT
    lengths = Lengths(**description.get("lengths", vars(unknown)))
    if not 0 <= lengths.joined <= lengths.longest <= LARGEST["longest_seconds"] or not lengths.longest:
        raise ValueError(f"{lengths} must have lengths from 0 to {LARGEST['longest_seconds']:,} s, `joined` not above `longest`")
    return lengths


def _check(path: Path, written: dict[str, Any]) -> None:
    if not path.is_file():
        raise InputError(f"{path} does not exist; the folder is incomplete, export it again")
    if path.stat().st_size != written["bytes"]:
        raise InputError(f"{path} has {path.stat().st_size} bytes instead of {written['bytes']}; export it again")
    if checksum(path) != written["sha256"]:
        raise InputError(f"{path} was changed after export: its checksum differs; export it again")


def checksum(path: Path) -> str:
    """SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
