"""The page in a browser with a WAV as its microphone: served, and as static files that run the model in the browser."""

import json
import shutil

import numpy as np
import pytest
from conftest import SPEECH, cli, texts_of

from residual_st.audio.lengths import Lengths
from residual_st.audio.pauses import spans_between_pauses
from residual_st.audio.reading import read_audio, resample
from residual_st.runtime import Translator
from residual_st.web.static import ORT

WIDTHS = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture
def served(serving, exported, with_languages):
    return serving(exported, with_languages)


@pytest.fixture
def static(runs, shared_checkpoint, with_languages, data, file_server):
    """The page as static files, with another model exported by an earlier release."""
    if not any(ORT.glob("*.wasm")):
        pytest.skip("onnxruntime-web is not vendored: make web")
    if not (runs / "web").exists():
        earlier = shutil.copytree(with_languages, runs / "earlier")
        description = json.loads((earlier / "model.json").read_text(encoding="utf-8"))
        targets = description.pop("languages")["targets"]
        vocabulary = {
            **description["vocabulary"],
            "languages": {name: words[0] for name, words in targets.items()},
            "default": None,
        }
        description = {**description, "format": 2, "vocabulary": vocabulary}
        (earlier / "model.json").write_text(json.dumps(description), encoding="utf-8")
        cli("export", shared_checkpoint, "--data", data, "--output", runs / "web", "--precision", "int8", "--web", earlier)
    return f"{file_server(runs / 'web')}/index.html"


def test_page_from_the_server(page, served, exported, with_languages):
    page.goto(served)
    assert texts_of(page, "Ready.") == ["", ""]
    assert page.locator("select:visible").count() == 1
    page.locator("select:visible").select_option("fr")
    page.set_input_files("#file", SPEECH)
    french = Translator(with_languages, target_lang="fr").translate(SPEECH).text
    assert texts_of(page) == [Translator(exported).translate(SPEECH).text, french]
    assert "times real time" in page.locator("article .time").first.inner_text()

    page.set_input_files("#file", {"name": "junk.wav", "mimeType": "audio/wav", "buffer": b"no audio"})
    page.wait_for_selector("#status.error")
    assert page.locator("#status").inner_text() == "The browser cannot read this file as audio."


@pytest.mark.parametrize(
    ("without", "sentence"),
    [
        ("Object.defineProperty(window, 'isSecureContext', {value: false})", "only on https or localhost"),
        ("delete window.MediaRecorder", "This browser cannot record"),
        ("navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError') }", "was denied"),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError') }",
            "No microphone was found",
        ),
    ],
)
def test_missing_browser_features_for_recording_are_named_in_one_sentence(page, served, without, sentence):
    page.add_init_script(without)
    page.goto(served)
    texts_of(page, "Ready.")
    page.click("#record")
    page.wait_for_selector("#status.error")
    assert sentence in page.locator("#status").inner_text()
    assert page.locator("#status").inner_text().endswith("or choose a recording.")


def test_stopped_server_is_reported(page, served):
    page.goto(served)
    texts_of(page, "Ready.")
    page.context.set_offline(True)
    page.set_input_files("#file", SPEECH)
    page.wait_for_selector("#status.error")
    assert page.locator("#status").inner_text() == "The server does not answer. Is it still running?"


def test_page_runs_the_model_in_the_browser(page, static, with_languages, tmp_path):
    page.goto(static)
    assert len(texts_of(page, "Ready.")) == 2
    page.set_input_files("#file", SPEECH)
    # the other model is fp32 and has languages, the first of which is selected
    assert texts_of(page)[1] == Translator(with_languages, target_lang="de").translate(SPEECH).text
    for name, (width, height) in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=tmp_path / f"{name}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#record")
    page.wait_for_selector("#status:text-is('Listening…')")
    page.wait_for_timeout(2500)
    page.click("#record")
    assert all(texts_of(page))


SPANS = """async ([rate, lengths, goesOn]) => {
  const { spansBetweenPauses } = await import("./pauses.js");
  return spansBetweenPauses(new Float32Array(await (await fetch("samples.f32")).arrayBuffer()), rate, lengths, goesOn);
}"""


def test_browser_cuts_recordings_like_python(page, static, tmp_path):
    """Exactly, in steps of 8 ms. Within 0.1 s if recordings are resampled, for which browsers use another algorithm."""
    speech = read_audio(SPEECH, 16_000)
    reply = read_audio(SPEECH.with_name("arctic_a0009.wav"), 16_000)
    noise = np.random.default_rng(1).standard_normal(3 * 16_000).astype(np.float32)
    talk = np.concatenate([speech, 0 * noise, reply, 1e-3 * noise, speech, reply[:20_000], 1e-3 * noise[:9600], speech])
    beginning = np.concatenate([speech, 1e-3 * noise[:9600], reply[:16_000]])
    file = tmp_path / "samples.f32"
    page.route("**/samples.f32", lambda route: route.fulfill(path=file))
    page.goto(static)
    texts_of(page, "Ready.")
    partial = talk[: -len(speech) + 16_000]
    for samples, rate, lengths, count, *continues in (
        (talk, 16_000, Lengths(15.0), 5),
        (1e-3 * talk, 16_000, Lengths(15.0), 5),
        (talk, 16_000, Lengths(2.0), 10),
        (talk, 16_000, Lengths(30.0, 30.0), 3),
        (resample(talk, 16_000, 8000), 8000, Lengths(15.0), 5),
        (partial, 16_000, Lengths(15.0), 4),
        (partial, 16_000, Lengths(15.0), 5, True),
        (0 * noise, 16_000, Lengths(15.0), 0),
        (0.1 * noise, 16_000, Lengths(15.0), 0),
        (speech[:100], 16_000, Lengths(15.0), 0),
        (beginning, 16_000, Lengths(15.0), 1),
        (beginning, 16_000, Lengths(15.0), 2, True),
    ):
        file.write_bytes(samples.astype(np.float32).tobytes())
        spans = page.evaluate(SPANS, [rate, vars(lengths), *continues])
        expected = [list(span) for span in spans_between_pauses(samples, rate, lengths, *continues)]
        assert len(spans) == len(expected) == count, (rate, lengths, spans, expected)
        if rate == 16_000:
            assert spans == expected
        else:
            np.testing.assert_allclose(spans, expected, atol=0.1 * rate)
