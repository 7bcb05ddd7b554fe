"""A multilingual Whisper in the page gives the texts of `residual-st translate`."""

import json
import shutil
import sys

import numpy as np
import pytest
import soundfile
from conftest import ROOT, SPEECH, cli, texts_of
from page_streams import streamed

pytest.importorskip("residual_st.huggingface")
sys.path.append(str(ROOT / "tests" / "streaming"))
from streams import updates_of  # noqa: E402
from tiny_whisper import SETTINGS, WORDS, save_whisper  # noqa: E402

from residual_st.audio.reading import read_audio  # noqa: E402
from residual_st.runtime import Translator  # noqa: E402
from residual_st.runtime.model import Model  # noqa: E402
from residual_st.streaming import Stream  # noqa: E402
from residual_st.web.static import ORT  # noqa: E402

RATE = 16_000
DETECTED = {"de": "Detected: German.", "en": "Detected: English.", "auto": "Detected"}


def with_fallback(folder, rules):
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps({**description, "fallback": rules}), encoding="utf-8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models with one and three hypotheses, the first with the page. Texts of the second are accepted. Texts of the first are
    guesses and sampled again, which gives guesses too, so the likeliest text is kept."""
    if not any(ORT.glob("*.wasm")):
        pytest.skip("onnxruntime-web is not vendored: make web")
    made = tmp_path_factory.mktemp("whispers")
    for name, beam in (("three", 3), ("one", 1)):
        save_whisper(made / f"source-{name}", WORDS, **SETTINGS, num_beams=beam)
        cli("export", made / f"source-{name}", "--output", made / name, *(["--web", made / "three"] if beam == 1 else []))
        with_fallback(made / name, {"temperatures": [0.0, 1.0], "log_prob": -1.0} if beam == 1 else {})
    return made / "one", made / "three"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A sentence, more than half a minute with a long pause, and silence."""
    speech, folder = read_audio(SPEECH, RATE), tmp_path_factory.mktemp("recordings")
    quiet = np.zeros(RATE // 2, np.float32)
    talk = [part for _ in range(9) for part in (speech, quiet)]
    made = {"sentence": [speech], "talk": [*talk, *[quiet] * 10, speech], "silence": [quiet] * 6}
    for name, parts in made.items():
        soundfile.write(folder / f"{name}.wav", np.concatenate(parts), RATE)
    assert len(np.concatenate(talk)) > 35 * RATE
    return folder


def transcript(folder, recording, task, source):
    return Translator(folder, task=task, source_lang=source).translate(recording)


def choices(page, name):
    return page.locator(f"article >> nth=0 >> select[name={name}] option").all_text_contents()


def test_multilingual_whisper_in_the_page(page, folders, recordings, file_server):
    page.goto(f"{file_server(folders[0])}/index.html")
    texts_of(page, "Ready.")
    assert sorted(choices(page, "task")) == ["transcribe", "translate"]
    assert choices(page, "source_lang") == ["detect", "English", "German"]
    assert choices(page, "target_lang") == ["English"]
    target = page.locator("article >> nth=0 >> select[name=target_lang]")
    assert not target.is_visible(), "transcripts are in the spoken language"
    seen = set()
    for recording, task, source in (
        ("sentence", "transcribe", "auto"),
        ("sentence", "transcribe", "de"),
        ("sentence", "translate", "de"),
        ("sentence", "translate", "auto"),
        ("talk", "translate", "auto"),
        ("talk", "transcribe", "de"),
        ("silence", "transcribe", "auto"),
    ):
        page.locator("article >> nth=0 >> select[name=task]").select_option(task)  # selects the task of the other model, too
        page.locator("article >> nth=0 >> select[name=source_lang]").select_option(source)
        assert target.is_visible() == (task == "translate")
        page.set_input_files("#file", recordings / f"{recording}.wav")
        made = [transcript(folder, recordings / f"{recording}.wav", task, source) for folder in folders]
        assert texts_of(page) == [each.text or "(no speech)" for each in made], (recording, task, source)
        for line, each in zip(page.locator("article .time").all_text_contents(), made):
            assert line.startswith(DETECTED[each.direction.source_lang]) == (source == "auto" and recording != "silence")
        seen.update(each.text for each in made)
    assert len(seen) > 8, "all of these texts differ"


def test_window_without_speech_has_no_text(page, folders, recordings, file_server, tmp_path):
    """Short recordings are not split into windows."""
    folder = shutil.copytree(folders[0], tmp_path / "model")
    with_fallback(folder, {"log_prob": 0.1, "no_speech": 0.0})
    page.goto(f"{file_server(folder)}/index.html")
    texts_of(page, "Ready.")
    for recording in ("talk", "sentence"):
        page.set_input_files("#file", recordings / f"{recording}.wav")
        text = transcript(folder, recordings / f"{recording}.wav", "transcribe", "auto").text
        assert bool(text) == (recording == "sentence")
        assert texts_of(page)[0] == (text or "(no speech)")


def test_whisper_stream_in_the_page(page, folders, recordings, file_server):
    """The language is detected in the first window."""
    page.goto(f"{file_server(folders[0])}/index.html")
    texts_of(page, "Ready.")
    model = Model(folders[0])
    sound = np.concatenate([read_audio(SPEECH, RATE), np.zeros(5 * RATE // 2, np.float32), read_audio(SPEECH, RATE)[: 2 * RATE]])
    expected = [update.as_json() for update in updates_of(Stream(model, source_lang="auto"), sound)]
    direction = {"task": "transcribe", "source_lang": "auto", "target_lang": None}
    assert streamed(page, model.folder.lengths, direction, sound) == expected
    assert len([segment for update in expected for segment in update["closed"]]) == 2


def test_whisper_from_the_server(page, folders, recordings, serving):
    page.goto(serving(folders[0]))
    texts_of(page, "Ready.")
    for task, source in (("translate", "de"), ("transcribe", "auto")):
        page.locator("select[name=task]").select_option(task)
        page.locator("select[name=source_lang]").select_option(source)
        page.set_input_files("#file", recordings / "sentence.wav")
        assert texts_of(page) == [transcript(folders[0], recordings / "sentence.wav", task, source).text]
    assert page.locator(".time").inner_text().startswith("Detected: ")
