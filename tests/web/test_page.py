"""The page in a browser, with a wav as the microphone: served, and as static files that run the model themselves."""

import functools
import http.server
import shutil
import socket
import subprocess
import threading
import time
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
    return page.locator("article .text").all_inner_texts()


@pytest.fixture
def served(exported):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([str(BIN / "residual-st"), "serve", str(exported), str(exported), "--port", str(port)])
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def static(runs, shared_checkpoint, exported, data):
    """A folder with the page in it, behind a plain file server."""
    if not any(ORT.glob("*.wasm")):
        pytest.skip("onnxruntime-web is not vendored: make web")
    if not (runs / "web").exists():
        cli("export", shared_checkpoint, "--data", data, "--output", runs / "web", "--precision", "int8", "--web", exported)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=runs / "web")
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=files.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{files.server_port}/index.html"
    files.shutdown()


def test_served(page, served, exported):
    page.goto(served)
    assert texts_of(page, "Ready.") == ["", ""]
    page.set_input_files("#file", SPEECH)
    expected = Translator(exported).translate(SPEECH).text
    assert texts_of(page) == [expected, expected]
    assert "times real time" in page.locator("article .time").first.inner_text()

    page.set_input_files("#file", {"name": "junk.wav", "mimeType": "audio/wav", "buffer": b"no audio"})
    page.wait_for_selector("#status.error")
    assert page.locator("#status").inner_text() == "This file cannot be read as audio."


def test_in_the_browser(page, static, exported, tmp_path):
    page.goto(static)
    assert len(texts_of(page, "Ready.")) == 2
    page.set_input_files("#file", SPEECH)
    assert texts_of(page)[1] == Translator(exported).translate(SPEECH).text  # the one beside it, fp32
    for name, (width, height) in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=tmp_path / f"{name}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#record")
    page.wait_for_selector("#status:text-is('Listening…')")
    page.wait_for_timeout(2500)
    page.click("#record")
    assert all(texts_of(page))
