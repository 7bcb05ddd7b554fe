"""Audio of a manifest's lines, as wav files in data: URLs."""

import base64
import io
from pathlib import Path

import soundfile
import yaml

from residual_st.audio.segments import numbered
from residual_st.errors import InputError
from residual_st.fairseq.manifest import read_manifest


class Recordings:
    """The audio of a test set in MuST-C's layout, by line of the manifest.

    Args:
        manifest: the test set's .tsv. An `audio` that is a wav, or PATH.wav:OFFSET:LENGTH in samples, is read directly.
        release: the folder with `wav/` and `txt/*.yaml` that the manifest was made from; needed if `audio` names features.

    Raises:
        InputError: if a file or a column is missing.
    """

    def __init__(self, manifest: Path, release: Path | None):
        self._rows = [(row["id"], row["audio"]) for row in read_manifest(manifest)]
        self._manifest = manifest
        self._segments = _segments(release) if release else {}

    def wav(self, line: int) -> str:
        """The audio of a line as the data: URL of a 16-bit wav. Raises InputError if it cannot be read."""
        if not 0 <= line < len(self._rows):
            raise InputError(
                f"{self._manifest} has {len(self._rows)} lines, but none numbered {line}; give the manifest of the translations"
            )
        name, audio = self._rows[line]
        if name in self._segments:
            wav, offset, duration = self._segments[name]
            with _opened(wav) as file:
                rate = file.samplerate
                file.seek(round(offset * rate))
                samples = file.read(round(duration * rate), dtype="int16")
        else:
            path, _, span = audio.partition(":")
            if Path(path).suffix not in (".wav", ".flac", ".ogg"):
                raise InputError(
                    f"{self._manifest} names features instead of audio; give --release, the folder with wav/ and txt/ "
                    "of this test set"
                )
            with _opened(self._manifest.parent / path) as file:
                rate = file.samplerate
                start, _, length = span.partition(":")
                file.seek(int(start or 0))
                samples = file.read(int(length) if length else -1, dtype="int16")
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
        return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()


def _opened(path: Path) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} cannot be read as audio") from error


def _segments(release: Path) -> dict[str, tuple[Path, float, float]]:
    """Utterance id -> (wav, offset and duration in seconds)."""
    lists = sorted((release / "txt").glob("*.yaml"))
    if len(lists) != 1:
        raise InputError(f"{release} is not a test set in MuST-C's layout: it must contain txt/ with one .yaml")
    by_wav: dict[str, list[dict[str, str]]] = {}
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # keeps offsets as strings, whose order numbers the utterances
    for segment in yaml.load(lists[0].read_text(encoding="utf-8-sig"), Loader=loader):
        by_wav.setdefault(segment["wav"], []).append(segment)
    return {
        name: (release / "wav" / wav, float(segment["offset"]), float(segment["duration"]))
        for wav, segments in by_wav.items()
        for name, segment in numbered(wav, segments, lambda segment: segment["offset"])
    }
