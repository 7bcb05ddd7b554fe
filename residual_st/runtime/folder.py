"""What is in an exported folder, checked before any of it is used."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

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
WHISPER = "whisper"  # the arch of its folders
FORMAT = 3  # of the folder; a later one that older runtimes cannot read has another number
READABLE = (1, 2, FORMAT)
ENCODER, CROSS_ATTENTION, DECODER = GRAPHS = ("encoder.onnx", "cross_attention.onnx", "decoder.onnx")
LARGEST_DESCRIPTION = 64 * 2**20  # bytes
FAIRSEQ_BLANK = 0  # its CTC loss takes the dictionary's first symbol
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
        path: where it is.
        vocabulary: of the words that it writes.
        languages: its tasks and languages.
        timestamps: its own; None where it has none.
        fallback: which texts are searched again, of a model with time stamps.
        sample_rate: Hz.
        shortest_samples: of an utterance.
        longest_seconds: of an utterance that the encoder takes.
        lengths: that recordings are best cut into.
        settings: of the search, in place of fairseq-generate's.
        description: all of model.json.
        streaming: the form of an encoder that is fed chunk by chunk; None for one that takes whole utterances.
        longest_words: that the decoder takes: of a text and what it is given before.
        layers, heads, head_width: of the decoder. 0, as is `longest_words`, for a model without one, which writes by CTC.
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
    description: dict
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
        """Whether the encoder fills up shorter utterances, and gives states of what it fills up with, too."""
        return self.description["arch"] == WHISPER

    def by_ctc(self) -> "Folder":
        """The model without its decoder, which writes by its CTC head; the same where there is no decoder.

        Raises:
            InputError: if it has no CTC head, or is told a language that it writes, which is what the decoder takes.
        """
        if not self.has_decoder:
            return self
        if not self.description.get("has_ctc"):
            raise InputError(f"{self.path} has no CTC head, which CTC decodes; it must be of a model trained with --ctc-weight")
        if self.languages.targets:
            languages = ", ".join(self.languages.targets)
            raise InputError(f"{self.path} writes one of {languages}, and CTC cannot be told which; its decoder must be used")
        without = dict.fromkeys(("longest_words", "layers", "heads", "head_width"), 0)
        return replace(
            self, vocabulary=replace(self.vocabulary, eos=FAIRSEQ_BLANK), settings=replace(self.settings, beam=1), **without
        )


def read_folder(path: str | Path) -> Folder:
    """Raises InputError where the folder is not one that `residual-st export` wrote, or a file is not the one that it wrote."""
    path = Path(path)
    if not (path / DESCRIPTION).is_file():
        raise InputError(f"{path} has no {DESCRIPTION}; give a folder that residual-st export wrote")
    if (path / DESCRIPTION).stat().st_size > LARGEST_DESCRIPTION:
        raise InputError(f"{path / DESCRIPTION} is larger than {LARGEST_DESCRIPTION} bytes, and none of residual-st export's")
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
                raise ValueError(f"{name} is {number!r}, and not a number above 0 and up to {LARGEST[name]:,}")
        for name, number in settings.items():
            kind = type(getattr(FAIRSEQ, name))
            if not isinstance(number, (int, kind)) or not abs(number) <= LARGEST_SETTING:
                raise ValueError(f"{name} is {number!r}, and no {kind.__name__} of up to {LARGEST_SETTING:,}")
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


def _words(description: dict) -> dict:
    """The vocabulary, and what is said in its words."""
    vocabulary, asked = Vocabulary(**description["vocabulary"]), description["languages"]
    languages = Languages(**{**asked, "default": Direction(**asked.get("default", {}))})
    vocabulary.check(languages.numbers)
    timestamps = description.get("timestamps")
    if timestamps is not None:
        timestamps = TimeStamps(**timestamps)
        vocabulary.check([timestamps.none, timestamps.first, timestamps.silence])
    return {"vocabulary": vocabulary, "languages": languages, "timestamps": timestamps}


def weights_of(graph: str) -> str:
    """The file with the weights of a graph above 2 GB."""
    return f"{graph}.data"


def _check_weights(path: Path, written: dict) -> None:
    if path.is_symlink():
        raise InputError(f"{path} is a link, which onnxruntime does not follow out of its folder; put the file there")
    _check(path, written)


def _lengths(description: dict) -> Lengths:
    """Folders of earlier releases do not have them. Whisper's are as long as its window."""
    window = description["longest_seconds"]
    unknown = Lengths(window, window) if description["arch"] == WHISPER else DEFAULT
    lengths = Lengths(**description.get("lengths", vars(unknown)))
    if not 0 <= lengths.joined <= lengths.longest <= LARGEST["longest_seconds"] or not lengths.longest:
        raise ValueError(f"{lengths} must have lengths from 0 to {LARGEST['longest_seconds']:,} s, `joined` not above `longest`")
    return lengths


def _check(path: Path, written: dict) -> None:
    if not path.is_file():
        raise InputError(f"{path} does not exist; the folder is not whole")
    if path.stat().st_size != written["bytes"]:
        raise InputError(f"{path} has {path.stat().st_size} bytes, not the {written['bytes']} that were written; export it again")
    if checksum(path) != written["sha256"]:
        raise InputError(f"{path} is not what was written: its checksum differs; export it again")


def checksum(path: Path) -> str:
    """SHA-256, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
