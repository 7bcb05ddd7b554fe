"""The page in a browser, with a wav as the microphone: served, and as static files that run the model themselves."""

import functools
import http.server
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from conftest import BIN, cli

from residual_st.runtime import Translator
from residual_st.web.static import ORT

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OURS = ("http://127.0.0.1:", "blob:", "data:")
WIDTHS = {"desktop": (1280, 800), "phone": (390, 844)}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        flags.append(f"--use-file-for-fake-audio-capture={SPEECH}%noloop")
        started = running.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A page that notes what it asks other hosts for, and errors."""
    context = browser.new_context(permissions=["microphone"])
    opened = context.new_page()
    opened.trouble = []
    opened.on("pageerror", lambda error: opened.trouble.append(str(error)))
    opened.on("request", lambda request: request.url.startswith(OURS) or opened.trouble.append(request.url))
    yield opened
    assert opened.trouble == []
    context.close()


def texts_of(page, status="Done."):
    page.wait_for_selector(f"#status:text-is('{status}')", timeout=180_000)
    return page.locator("article .text").all_text_contents()


@pytest.fixture
def served(exported, with_languages):
    command = [BIN / "residual-st", "serve", exported, with_languages, "--host", "0.0.0.0", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().strip()
    process.terminate()
    process.communicate()


@pytest.fixture
def static(runs, shared_checkpoint, with_languages, data):
    """A folder with the page in it, behind a plain file server."""
    if not any(ORT.glob("*.wasm")):
        pytest.skip("onnxruntime-web is not vendored: make web")
    if not (runs / "web").exists():
        cli("export", shared_checkpoint, "--data", data, "--output", runs / "web", "--precision", "int8", "--web", with_languages)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=runs / "web")
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=files.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{files.server_port}/index.html"
    files.shutdown()


def test_served(page, served, exported, with_languages):
    page.goto(served)
    assert texts_of(page, "Ready.") == ["", ""]
    assert page.locator("select:visible").count() == 1
    page.locator("select:visible").select_option("fr")
    page.set_input_files("#file", SPEECH)
    french = Translator(with_languages, language="fr").translate(SPEECH).text
    assert texts_of(page) == [Translator(exported).translate(SPEECH).text, french]
    assert "times real time" in page.locator("article .time").first.inner_text()

    page.set_input_files("#file", {"name": "junk.wav", "mimeType": "audio/wav", "buffer": b"no audio"})
    page.wait_for_selector("#status.error")
    assert page.locator("#status").inner_text() == "This file cannot be read as audio."


@pytest.mark.parametrize(
    ("without", "sentence"),
    [
        ("Object.defineProperty(window, 'isSecureContext', {value: false})", "only on https or localhost"),
        ("delete window.MediaRecorder", "This browser cannot record"),
        ("navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError') }", "was not allowed"),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError') }",
            "No microphone was found",
        ),
    ],
)
def test_what_keeps_a_page_from_recording_is_said_in_one_sentence(page, served, without, sentence):
    page.add_init_script(without)
    page.goto(served)
    texts_of(page, "Ready.")
    page.click("#record")
    page.wait_for_selector("#status.error")
    assert sentence in page.locator("#status").inner_text()
    assert page.locator("#status").inner_text().endswith("or choose a recording.")


def test_a_server_that_is_gone(page, served):
    page.goto(served)
    texts_of(page, "Ready.")
    page.context.set_offline(True)
    page.set_input_files("#file", SPEECH)
    page.wait_for_selector("#status.error")
    assert page.locator("#status").inner_text() == "The server does not answer. Is it still running?"


def test_in_the_browser(page, static, with_languages, tmp_path):
    page.goto(static)
    assert len(texts_of(page, "Ready.")) == 2
    page.set_input_files("#file", SPEECH)
    # the one beside it is of fp32 and has languages, of which the first is chosen
    assert texts_of(page)[1] == Translator(with_languages, language="de").translate(SPEECH).text
    for name, (width, height) in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=tmp_path / f"{name}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#record")
    page.wait_for_selector("#status:text-is('Listening…')")
    page.wait_for_timeout(2500)
    page.click("#record")
    assert all(texts_of(page))
