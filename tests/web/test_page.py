"""The page in a browser, with a wav as the microphone: served, and as static files that run the model themselves."""

import functools
import http.server
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import BIN, cli

from residual_st.audio.lengths import Lengths
from residual_st.audio.pauses import spans_between_pauses
from residual_st.audio.reading import read_audio, resample
from residual_st.runtime import Settings, Translator
from residual_st.runtime.beam_search import BeamSearch
from residual_st.runtime.rules import Rules
from residual_st.runtime.settings import FAIRSEQ
from residual_st.runtime.vocabulary import Vocabulary
from residual_st.web.static import ORT, PAGE

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


@pytest.fixture
def scripts(page):
    """The page's own modules, to be imported by it."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=PAGE)
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=files.serve_forever, daemon=True).start()
    page.goto(f"http://127.0.0.1:{files.server_port}/page.css")
    yield page
    files.shutdown()


LETTERS = ["Ġ", "a", "Ã", "¤", "ð", "Ł", "Ļ", "Ĥ", " x y", "é", "ï", "»", "¿", ".", "'s"]
PIECES = [
    "▁",
    "▁die",
    "e",
    *(f"<0x{byte:02X}>" for byte in (0x61, 0xE7, 0x88, 0xB1, 0xF0, 0x9F, 0xED, 0xA0, 0xEF, 0xBB, 0xBF, 0xC0)),
]


@pytest.mark.parametrize("pieces, symbols", [("bytes", LETTERS), ("sentencepiece", PIECES), ("words", PIECES)])
def test_texts_of_the_page(pieces, symbols, scripts):
    fields = {"start": 0, "begin": [], "eos": 0, "pad": None, "unk": None, "hidden": [1]}
    fields |= {"symbols": symbols, "pieces": pieces, "replaced": [[" .", "."], [" 's", "'s"]]}
    draw = np.random.default_rng(1)
    rows = [draw.integers(len(symbols), size=draw.integers(9)).tolist() for _ in range(2000)]
    written = scripts.evaluate(
        "async ([fields, rows]) => { const { text } = await import('/vocabulary.js'); return rows.map(row => text(fields, row)); }",
        [fields, rows],
    )
    assert written == [Vocabulary(**fields).text(row) for row in rows]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({}, {}),
        ({"beam": 3, "lenpen": 0.3, "early_stopping": False, "min_len": 4}, {"prompted": True, "begin": [5, 6]}),
        ({"beam": 1, "early_stopping": False, "max_len_b": 6}, {"begin": [5], "suppressed": [2, 7, 9], "begin_suppressed": [4, 1]}),
        ({"beam": 4, "early_stopping": False}, {"prompted": True, "begin": [8], "suppressed": [3], "begin_suppressed": [1, 10]}),
    ],
)
def test_the_search_of_the_page(settings, words, scripts):
    """Of a made-up decoder, whose next words depend on the last and on how many there are."""
    fields = {"start": 0, "begin": [], "eos": 1, "pad": 2, "unk": None, "hidden": []}
    fields |= {"symbols": [str(number) for number in range(12)], "pieces": "words", **words}
    complete = Settings(**settings).completed(FAIRSEQ)
    for seed in range(8):
        table = np.random.default_rng(seed).normal(0, 1.5, (40, 12, 12))
        table[:, :, 1] += 0.5
        table = (table - np.log(np.exp(table).sum(-1, keepdims=True))).astype(np.float32)
        vocabulary, count = Vocabulary(**fields), iter(range(40))
        prompt, prefix = vocabulary.opening([])
        longest = min(complete.max_len_b, 30)
        search = BeamSearch(
            lambda last, order: table[next(count)][last],  # noqa: B023
            None,
            Rules(vocabulary, complete, longest, prefix),
            complete,
            prompt,
        )
        ((best,),) = search.run(1)
        found = scripts.evaluate(
            """async ([table, fields, settings, longest]) => {
                const { search } = await import('/beam_search.js'), { opening } = await import('/vocabulary.js');
                let count = 0;
                const step = last => { const row = table[count++]; return Float32Array.from(last.flatMap(word => row[word])); };
                return search(step, fields, settings, { longest, ...opening(fields, []) });
            }""",
            [table.tolist(), fields, vars(complete), longest],
        )
        assert found == best.tokens


def test_served(page, served, exported, with_languages):
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


SPANS = """async ([rate, lengths]) => {
  const { spansBetweenPauses } = await import("./pauses.js");
  return spansBetweenPauses(new Float32Array(await (await fetch("samples.f32")).arrayBuffer()), rate, lengths);
}"""


def test_recordings_are_cut_in_the_browser_as_everywhere(page, static, tmp_path):
    """In steps of 8 ms; those that have to be resampled, which browsers do in another way, within 0.1 s."""
    speech = read_audio(SPEECH, 16_000)
    other = read_audio(SPEECH.with_name("arctic_a0009.wav"), 16_000)
    noise = np.random.default_rng(1).standard_normal(3 * 16_000).astype(np.float32)
    talk = np.concatenate([speech, 0 * noise, other, 1e-3 * noise, speech, other[:20_000], 1e-3 * noise[:9600], speech])
    file = tmp_path / "samples.f32"
    page.route("**/samples.f32", lambda route: route.fulfill(path=file))
    page.goto(static)
    texts_of(page, "Ready.")
    for samples, rate, lengths, count in (
        (talk, 16_000, Lengths(15.0), 5),
        (1e-3 * talk, 16_000, Lengths(15.0), 5),
        (talk, 16_000, Lengths(2.0), 10),
        (talk, 16_000, Lengths(30.0, 30.0), 3),
        (resample(talk, 16_000, 8000), 8000, Lengths(15.0), 5),
        (0 * noise, 16_000, Lengths(15.0), 0),
        (0.1 * noise, 16_000, Lengths(15.0), 0),
        (speech[:100], 16_000, Lengths(15.0), 0),
    ):
        file.write_bytes(samples.astype(np.float32).tobytes())
        found = page.evaluate(SPANS, [rate, vars(lengths)])
        expected = [list(span) for span in spans_between_pauses(samples, rate, lengths)]
        assert len(found) == len(expected) == count, (rate, lengths, found, expected)
        if rate == 16_000:
            assert found == expected
        else:
            np.testing.assert_allclose(found, expected, atol=0.1 * rate)
