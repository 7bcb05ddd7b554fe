"""Live captions in a browser whose microphone plays a talk, computed by the server or in the browser."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from conftest import ROOT, cli, texts_of
from page_streams import streamed

from residual_st.audio.lengths import Lengths
from residual_st.audio.reading import resample
from residual_st.runtime import Translator
from residual_st.runtime.model import Model
from residual_st.streaming import Stream
from residual_st.web.static import ORT

sys.path.append(str(ROOT / "tests" / "streaming"))
from streams import RATE, SPEECH, segments_of, talk, updates_of  # noqa: E402


@pytest.fixture(scope="module")
def microphone(tmp_path_factory):
    path = tmp_path_factory.mktemp("microphone") / "talk.wav"
    soundfile.write(path, talk(), RATE)
    return path


def lines_of(page) -> list[str]:
    return page.locator("article .text >> nth=0 >> div").all_text_contents()


def captions_of(page) -> list[list[str]]:
    """The visible captions after each change, while the microphone plays and until the end."""
    texts_of(page, "Ready.")
    page.click("#live")
    page.wait_for_selector("#status:text-is('Listening…')")
    seen = []
    for _ in range(200):
        lines = lines_of(page)
        if not seen or lines != seen[-1]:
            seen.append(lines)
        if sum(map(bool, lines)) == 2 and not lines[-1]:
            break
        page.wait_for_timeout(50)
    page.click("#live")
    texts_of(page)
    return [*seen, lines_of(page)]


def test_captions_from_the_server(page, serving, exported, microphone):
    frames = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: frames.append(frame)))
    page.goto(serving(exported))
    seen = captions_of(page)
    first, *pieces, last = frames
    assert json.loads(last) == {"end_of_stream": True}
    # browsers resample the microphone's signal
    updates = updates_of(
        Stream(exported), np.frombuffer(b"".join(pieces), np.float32), json.loads(first)["rate"] // 10, json.loads(first)["rate"]
    )
    assert seen[-1] == [segment.text for segment in segments_of(updates)] + [""]
    assert " ".join(seen[-1][:-1]) == Translator(exported).translate(microphone).text
    # during the first sentence
    assert any(len(lines) == 1 and lines[0] for lines in seen)
    assert page.locator(".time").inner_text().endswith("s behind")


@pytest.fixture
def static(runs, shared_checkpoint, data, exported, file_server):
    """The page with a model that runs in the browser."""
    if not any(ORT.glob("*.wasm")):
        pytest.skip("onnxruntime-web is not vendored: make web")
    if not (runs / "captions").exists():
        cli("export", shared_checkpoint, "--data", data, "--output", runs / "captions", "--web")
    return f"{file_server(runs / 'captions')}/index.html"


def test_captions_in_the_browser(page, static, exported, microphone):
    page.goto(static)
    seen = captions_of(page)
    assert " ".join(seen[-1][:-1]) == Translator(exported).translate(microphone).text
    assert any(len(lines) == 1 and lines[0] for lines in seen)
    page.set_input_files("#file", microphone)
    texts_of(page)


@pytest.mark.parametrize("sound, longest", [(talk(), 15.0), (SPEECH[0], 2.5)])
def test_browser_stream_equals_pythons(sound, longest, page, static, exported):
    """At each step, also if speech is longer than a window."""
    page.goto(static)
    texts_of(page, "Ready.")
    model = Model(exported)
    model.folder = replace(model.folder, lengths=Lengths(longest))
    expected = [update.as_json() for update in updates_of(Stream(model), sound)]
    assert streamed(page, Lengths(longest), {}, sound) == expected


def test_model_with_another_sample_rate_in_the_browser(page, static, runs, file_server, tmp_path):
    """The speech detector has a fixed rate, and web workers cannot resample."""
    folder, sound = shutil.copytree(runs / "captions", tmp_path / "model"), resample(SPEECH[0], RATE, 8000)
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps({**description, "sample_rate": 8000}), encoding="utf-8")
    page.goto(f"{file_server(folder)}/index.html")
    texts_of(page, "Ready.")
    expected = segments_of(updates_of(Stream(folder), sound, 800))
    segments = [segment for update in streamed(page, Lengths(15.0), {}, sound, 8000) for segment in update["closed"]]
    assert [segment["text"] for segment in segments] == [segment.text for segment in expected]
    for segment, expected_segment in zip(segments, expected):
        assert (segment["start"], segment["end"]) == pytest.approx((expected_segment.start, expected_segment.end), abs=0.1)


@pytest.mark.parametrize(
    ("server", "sentence"),
    [
        (lambda socket: socket.close(code=1011), "The server does not answer. Is it still running?"),
        (
            lambda socket: socket.on_message(lambda _: socket.send('{"error": "all 16 streams are in use"}')),
            "all 16 streams are in use",
        ),
        (lambda socket: socket.on_message(lambda _: None), "The text is more than 1 s late: choose a smaller model."),
    ],
    ids=["gone", "refused", "slow"],
)
def test_interrupted_captions_are_reported(server, sentence, page, serving, exported, microphone):
    """The cause is shown, and the page remains usable."""
    page.route_web_socket("**/captions/0", server)
    page.route(
        "**/captions.js",
        lambda route: route.fulfill(body=route.fetch().text().replace("LATEST = 60", "LATEST = 1"), content_type="text/javascript"),
    )
    page.goto(serving(exported))
    texts_of(page, "Ready.")
    page.click("#live")
    page.wait_for_selector("#status.error")
    assert page.locator("#status").inner_text() == sentence
    assert page.locator("#live").inner_text() == "Live captions"
    page.set_input_files("#file", microphone)
    texts_of(page)


@pytest.mark.parametrize(
    ("without", "sentence"),
    [
        ("delete window.AudioWorkletNode", "This browser cannot record: use another browser, or choose a recording."),
        (
            "AudioContext.prototype.createMediaStreamSource = () => { throw new DOMException('', 'NotSupportedError') }",
            "This browser cannot record at 16000 Hz: use another browser, or choose a recording.",
        ),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError') }",
            "No microphone was found: connect one, or choose a recording.",
        ),
    ],
    ids=["no worklet", "other rates", "no microphone"],
)
def test_missing_browser_features_for_captions_are_named_in_one_sentence(page, static, without, sentence):
    page.add_init_script(without)
    page.goto(static)
    texts_of(page, "Ready.")
    page.click("#live")
    page.wait_for_selector("#status.error")
    assert page.locator("#status").inner_text() == sentence
    assert page.locator("#live").is_enabled()
