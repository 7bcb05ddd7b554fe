"""`residual-st listen` reads from a pipe, a file and a microphone."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import ModuleType

import numpy as np
import pytest
import soundfile
from conftest import BIN, ROOT, cli, run

sys.path.append(str(ROOT / "tests" / "streaming"))
from streams import RATE, SPEECH, quiet, talk  # noqa: E402

SHORT = ["--beam", "1"]
WITHOUT_TORCH = """
import sys
for name in ("torch", "fairseq", "sentencepiece", "kaldi_native_fbank", "onnx", "spox", "sounddevice"):
    sys.modules[name] = None
from residual_st.cli import main
sys.exit(main(sys.argv[1:]))
"""


def pcm(samples: np.ndarray) -> bytes:
    return (samples * (2**15 - 1)).astype("<i2").tobytes()


@pytest.fixture
def recording(tmp_path):
    soundfile.write(tmp_path / "talk.flac", talk(), RATE)
    return tmp_path / "talk.flac"


def test_raw_samples_are_read_from_standard_input_without_torch(exported, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, "listen", exported, "-", *SHORT, "--srt", tmp_path / "talk.srt"]
    process = subprocess.Popen([str(part) for part in [*command, "--json"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    sound = pcm(talk())
    process.stdin.write(sound[:60_001])  # splits a sample
    process.stdin.flush()
    first = json.loads(process.stdout.readline())  # before the speech ends
    assert first == {"seconds": 1.0, "closed": [], "text": first["text"], "tail": first["tail"]}
    rest, _ = process.communicate(sound[60_001:])
    rows = [first, *map(json.loads, rest.decode().splitlines())]
    assert process.returncode == 0
    closed = [segment for row in rows for segment in row["closed"]]
    assert len(closed) == 2 and rows[-1]["seconds"] == round(len(talk()) / RATE, 3)
    blocks = (tmp_path / "talk.srt").read_text().split("\n\n")
    assert blocks[0].startswith("1\n00:00:0") and closed[0]["text"].startswith(blocks[0].split("\n")[2])
    assert [path.name for path in tmp_path.iterdir()] == ["talk.srt"]


def test_raw_samples_of_other_types_rates_and_channels(exported, monkeypatch):
    """A client that stops in the middle of a sample, and one at 8 kHz whose second channel is inverted."""
    both = np.stack([talk(), -talk()], axis=1)[::2]
    for samples, flags in (
        (pcm(np.concatenate([quiet(0.7), SPEECH[0]])[:40_000]), []),
        (both.astype("<f4").tobytes(), ["--rate", "8000", "--channels", "2", "--sample-type", "f32le"]),
        (b"", []),
        (b"\0", []),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(samples)))
        result = cli("listen", exported, "-", *SHORT, *flags)
        assert result.stderr == ""
        assert len(result.stdout.splitlines()) == (2 if flags else len(samples) > 10)


def test_recording_is_played_in_real_time_or_faster(exported, recording, tmp_path):
    begun = time.monotonic()
    fast = cli("listen", exported, recording, "--fast", *SHORT, "--srt", tmp_path / "talk.srt").stdout
    assert time.monotonic() - begun < 7
    assert len(fast.splitlines()) == 2
    short = tmp_path / "short.wav"
    soundfile.write(short, talk()[: 3 * RATE], RATE)
    begun = time.monotonic()
    rows = [json.loads(line) for line in cli("listen", exported, short, "--json", *SHORT).stdout.splitlines()]
    assert time.monotonic() - begun >= 3
    assert rows[-1]["seconds"] == 3.0 and len(rows) >= 2


def test_microphone_is_transcribed_until_ctrl_c(exported, monkeypatch):
    """sounddevice, which needs a sound card, is replaced: the stub plays a talk and sends SIGINT after its text."""
    played, fake = talk(), ModuleType("sounddevice")

    class InputStream:
        def __init__(self, samplerate, blocksize, device, channels, dtype, callback):
            assert (samplerate, device, channels, dtype) == (RATE, "usb", 1, "float32")
            self._play = threading.Thread(target=self._run, args=(blocksize, callback))

        def _run(self, size, callback):
            block = np.zeros((size, 1), np.float32)  # one buffer for all blocks, as in PortAudio
            for start in range(0, len(played) - size, size):
                block[:, 0] = played[start : start + size]
                callback(block, size, None, None)
                time.sleep(0.001)
            while sys.stdout.getvalue().count("\n") < 2:
                time.sleep(0.05)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        def __enter__(self):
            self._play.start()

        def __exit__(self, *_):
            self._play.join()

    fake.InputStream, fake.PortAudioError = InputStream, OSError
    fake.query_devices = lambda device, kind: {"default_samplerate": float(RATE)}
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    assert len(cli("listen", exported, "--device", "usb", *SHORT).stdout.splitlines()) == 2

    def refuse(device, kind):
        raise ValueError("No input device matching 'usb'")

    fake.query_devices = refuse
    result = cli("listen", exported, "--device", "usb", check=False)
    assert result.returncode == 2 and "--device usb cannot be opened: No input device matching 'usb'" in result.stderr


def test_terminal_marks_revised_words(exported, recording):
    """Each window is one line that is redrawn: provisional words are faint, changed words underlined."""
    code = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    command = [BIN / "residual-st", "listen", exported, recording, "--fast", "--policy", "retranslation", *SHORT]
    shown = run(sys.executable, "-c", code, *command, env={**os.environ, "COLUMNS": "40"}).stdout
    whole = [line.rpartition("\x1b[K")[2] for line in shown.splitlines()]
    texts = cli("listen", exported, recording, "--fast", "--policy", "retranslation", *SHORT).stdout.splitlines()
    assert [line for line in whole if line and "\x1b" not in line] == texts
    assert "\x1b[2m" in shown and "\x1b[4m" in shown


def test_wrong_usage_is_refused(exported, recording, tmp_path):
    existing = tmp_path / "taken.srt"
    existing.write_text("existing")
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    for arguments, message in (
        ([tmp_path / "missing.wav"], "missing.wav cannot be read as audio: No such file or directory"),
        ([exported / "model.json"], "model.json cannot be read as audio"),
        (
            [recording, "--policy", "wait-k"],
            "policy=wait-k is not known; it must be one of local-agreement, alignatt, retranslation, ctc",
        ),
        ([recording, "--chunk-seconds", "0"], "chunk_seconds=0 must be from 0.1 to 10"),
        ([recording, "--beam", "0"], "beam=0 must be a whole number from 1 to 100"),
        ([empty, "--srt", tmp_path / "x.srt"], "empty.wav cannot be read as audio"),
        ([recording, "--target-lang", "de"], "the model has one target language, so target_lang must not be given"),
        ([recording, "--srt", existing], "taken.srt already exists; name another output, or give --force"),
        ([recording, "--srt", tmp_path / "none" / "x.srt"], "does not exist"),
        (["-", "--rate", "0"], "--rate 0 must be from 1 to 192,000"),
        (["-", "--sample-type", "mp3"], "sample_type=mp3 is not known; it must be one of s16le, s32le, f32le, u8"),
        (["-", "--fast"], "--fast needs a recording"),
    ):
        result = cli("listen", exported, *arguments, check=False)
        assert result.returncode == 2, arguments
        assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert existing.read_text() == "existing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.wav", "taken.srt", recording.name]


def test_missing_package_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    result = cli("listen", exported, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("residual-st listen: the package sounddevice is not installed")
