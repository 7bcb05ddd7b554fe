"""Invalid and extreme manifests, configurations and recordings."""

import io
import random
import shutil
import struct
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import kills
import numpy as np

from residual_st.files import read_lines


def manifests(work: Path) -> Iterator[tuple[str, Callable, list]]:
    """Invalid training sets."""
    source = work / "corpus" / "en-de"
    header, *lines = read_lines(source / "train_st.tsv")
    columns = header.split("\t")

    def changed(column: str, value: str) -> str:
        fields = lines[0].split("\t")
        fields[columns.index(column)] = value
        return "\n".join([header, "\t".join(fields), *lines[1:]]) + "\n"

    first_row = dict(zip(columns, lines[0].split("\t")))
    archive_path, offset, size = first_row["audio"].rsplit(":", 2)
    texts = {
        "empty": "",
        "header alone": header + "\n",
        "no header": "\n".join(lines),
        "one column": "id\na\nb\n",
        "a missing column": "\n".join(line.rpartition("\t")[0].rpartition("\t")[0] for line in [header, *lines]),
        "broken UTF-8": (header + "\n" + lines[0]).encode() + b"\xff\xfe\x80\n",
        "NUL bytes": (header + "\n").encode() + bytes(1000),
        "an empty text": changed("tgt_text", ""),
        "a text of a megabyte": changed("tgt_text", "word " * 200_000),
        "a negative offset": changed("audio", f"{archive_path}:-5:{size}"),
        "a huge offset": changed("audio", f"{archive_path}:{10**15}:{size}"),
        "a huge length": changed("audio", f"{archive_path}:{offset}:{10**15}"),
        "a negative length": changed("audio", f"{archive_path}:{offset}:-1"),
        "no length": changed("audio", f"{archive_path}:{offset}"),
        "words for numbers": changed("audio", f"{archive_path}:a:b"),
        "no audio there": changed("audio", f"{work}/none.zip:{offset}:{size}"),
        "a folder": changed("audio", f"{work}:{offset}:{size}"),
        "a path upwards": changed("audio", "../../../../../../etc/passwd"),
        "a device": changed("audio", "/dev/zero:0:100"),
        "no frames": changed("n_frames", "0"),
        "negative frames": changed("n_frames", "-7"),
        "a word for frames": changed("n_frames", "many"),
        "frames beyond number": changed("n_frames", "9" * 400),
        "frames NaN": changed("n_frames", "nan"),
        "a quote": changed("tgt_text", '"never closed'),
    }

    def folder(text: str | bytes) -> Callable:
        def write(path: Path) -> None:
            path.mkdir()
            for file in source.iterdir():
                if file.is_file() and file.name != "train_st.tsv":
                    (path / file.name).symlink_to(file)
            (path / "train_st.tsv").write_bytes(text.encode() if isinstance(text, str) else text)

        return write

    def with_config(text: str) -> Callable:
        def write(path: Path) -> None:
            folder("\n".join([header, *lines]) + "\n")(path)
            (path / "config_st.yaml").unlink()
            (path / "config_st.yaml").write_text(text)

        return write

    dense = str(work / "dense" / "checkpoint_last.pt")
    commands = [
        ["cache-teacher", dense, "--data", "{file}", "--output", "{out}"],
        ["compress", dense, "--output", "{out}", "--group-size", "3", "--calibration", "{file}", "--calibration-batches", "1"],
    ]
    for name, text in texts.items():
        yield name, folder(text), commands
    configs = {
        "no YAML": "{",
        "a list": "- a",
        "a tag that runs code": "!!python/object/apply:os.system ['touch exploded']",
        "no vocabulary": "vocab_filename: none.txt",
        "an alias bomb": "a: &a [x,x]\n"
        + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)},*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(20)
        ),
        "transforms unknown": "vocab_filename: spm_unigram150_st.txt\ntransforms: {'*': [spin]}",
        "a path upwards": "vocab_filename: ../../../../etc/passwd",
    }
    for name, text in configs.items():
        yield f"config, {name}", with_config(text), commands
        yield f"config of training, {name}", lambda path, text=text: path.write_text(text), [["train", "{file}", "--dry-run"]]


def audio(work: Path) -> Iterator[tuple[str, Callable, list]]:
    """Invalid and extreme recordings for the runtime without torch."""
    import soundfile

    speech, rate = soundfile.read(kills.ROOT / "tests" / "speech" / "arctic_a0007.wav", dtype="float32")

    def sound(samples: np.ndarray, rate: int = rate, **options) -> Callable:
        return lambda path: soundfile.write(path, samples, rate, **{"format": "WAV", **options})

    def wav_header(**changes: int) -> Callable:
        fields = {
            "riff": 36 + 2 * len(speech),
            "kind": 1,
            "channels": 1,
            "rate": rate,
            "second": 2 * rate,
            "block": 2,
            "bits": 16,
            "data": 2 * len(speech),
        } | changes

        def write(path: Path) -> None:
            order = ("riff", "kind", "channels", "rate", "second", "block", "bits", "data")
            riff, kind, channels, hertz, second, block, bits, data = (fields[name] for name in order)
            form = struct.pack("<IHHIIHH", 16, kind, channels, hertz, second, block, bits)
            head = b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + form
            path.write_bytes(head + b"data" + struct.pack("<I", data) + (speech * 32767).astype("<i2").tobytes())

        return write

    def silence(path: Path) -> None:  # FLAC of a day at 192 kHz
        with soundfile.SoundFile(path, "w", 192_000, 1, "PCM_16", format="FLAC") as file:
            block = np.zeros(192_000 * 60, np.int16)
            for _ in range(24 * 60):
                file.write(block)

    def pieces(path: Path) -> bytes:
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
        return path.read_bytes()

    hour = np.tile(speech, int(3600 * rate / len(speech)))
    files = {
        "no samples": pieces,
        "one sample": sound(speech[:1]),
        "8-bit": sound(speech, subtype="PCM_U8"),
        "24-bit": sound(speech, subtype="PCM_24"),
        "float": sound(speech, subtype="FLOAT"),
        "double": sound(speech, subtype="DOUBLE"),
        "NaN": sound(speech * np.nan, subtype="FLOAT"),
        "infinite": sound(np.full(16000, np.inf, np.float32), subtype="FLOAT"),
        "huge": sound(speech * 1e30, subtype="FLOAT"),
        "64 channels": sound(np.tile(speech[:8000, None], (1, 64))),
        "1 Hz": sound(speech, 1),
        "a rate of 4 GHz": wav_header(rate=2**32 - 1),
        "no rate": wav_header(rate=0),
        "no channels": wav_header(channels=0),
        "65,535 channels": wav_header(channels=65535, block=65535),
        "says 4 GB": wav_header(data=2**32 - 1, riff=2**32 - 1),
        "says nothing": wav_header(data=0),
        "odd bits": wav_header(bits=13),
        "no bits": wav_header(bits=0),
        "another kind": wav_header(kind=0x1234),
        "silence": sound(np.zeros(16000 * 5, np.float32)),
        "flac": sound(speech, format="FLAC"),
        "ogg": sound(speech, format="OGG"),
        "mp3": sound(speech, format="MP3"),
        "a day of silence in a megabyte": silence,
        "text": lambda path: path.write_text("no audio\n" * 1000),
        "empty": lambda path: path.touch(),
        "a folder": lambda path: path.mkdir(),
        "random bytes": lambda path: path.write_bytes(random.Random(1).randbytes(10**6)),
        "a checkpoint": lambda path: shutil.copy(work / "shared.pt", path),
    }
    command = ["translate", str(work / "device"), "{file}", "--beam", "1", "--max-len-b", "10"]
    for name, make in files.items():
        yield name, make, [command, ["translate", str(work / "device"), "{file}", "--beam", "1", "--max-len-b", "5", "--srt"]][:1]
    yield "an hour", sound(hour), [["translate", str(work / "device"), "{file}", "--beam", "1", "--max-len-b", "1"]]
    for form in ("WAV", "FLAC", "OGG", "MP3"):
        whole = io.BytesIO()
        soundfile.write(whole, speech, rate, format=form)
        for number in range(10):
            chance = random.Random(f"{form} {number}")
            content = bytearray(whole.getvalue())
            place = chance.randrange(len(content))
            if number % 2:
                content[place] ^= 1 << chance.randrange(8)
            else:
                del content[place:]
            yield (
                f"{form}, {'bit' if number % 2 else 'cut'} at {place}",
                lambda path, content=content: path.write_bytes(content),
                [command],
            )
