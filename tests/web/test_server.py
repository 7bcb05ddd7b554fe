"""Responses and refusals of the server of the page."""

import asyncio
import io
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from conftest import BIN, cli
from starlette.testclient import TestClient

from residual_st.runtime import Settings, Translator
from residual_st.web import server
from residual_st.web.server import application

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"
AUDIO = {"content-type": "audio/wav"}
SETTINGS = Settings(max_len_b=10)


@pytest.fixture
def client(exported):
    return TestClient(application([exported, exported], ["localhost"], settings=SETTINGS), base_url="http://localhost")


def test_page_and_list_of_models(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.css", "page.js", "audio.js", "on_server.js"):
        assert client.get(f"/{name}").status_code == 200
    listed = client.get("/models.json").json()
    assert listed["engine"] == "server"
    assert [model["number"] for model in listed["models"]] == [0, 1]
    assert listed["models"][0]["sample_rate"] == 16_000


def test_audio_is_translated_as_by_the_command(client, exported):
    answer = client.post("/translate/1", content=SPEECH.read_bytes(), headers=AUDIO)
    assert answer.status_code == 200
    assert answer.json()["text"] == Translator(exported, SETTINGS).translate(SPEECH).text
    assert answer.json()["seconds"] == pytest.approx(soundfile.info(SPEECH).duration, abs=1e-3)
    assert 3 < answer.json()["segments"][0]["end"] < answer.json()["seconds"]


def test_invalid_requests_are_refused_in_one_sentence(client):
    short = io.BytesIO()
    soundfile.write(short, np.zeros(10), 16_000, format="wav")
    for path, content, status, message in (
        ("/translate/0", b"no audio", 400, "the recording cannot be read as audio"),
        ("/translate/0", b"", 400, "the recording cannot be read as audio"),
        ("/translate/0", SPEECH.read_bytes()[:50], 400, "one frame"),
        ("/translate/0", short.getvalue(), 400, "shorter than one frame"),
        ("/translate/2", SPEECH.read_bytes(), 404, "There is no model 2"),
        ("/translate/0?target_lang=fr", SPEECH.read_bytes(), 400, "has one target language"),
        ("/translate/0?lang=fr", SPEECH.read_bytes(), 400, "lang=fr; each key must be one of task, source_lang, target_lang"),
    ):
        answer = client.post(path, content=content, headers=AUDIO)
        assert answer.status_code == status, path
        assert message in answer.json()["error"]
    assert client.get("/../server.py").status_code == 404
    assert client.get("/%2e%2e/server.py").status_code == 404
    assert client.get("/translate/0").status_code in (404, 405)


def test_large_uploads_are_refused(client, monkeypatch):
    monkeypatch.setattr(server, "LARGEST_UPLOAD", 1000)
    assert client.post("/translate/0", content=b"x" * 1001, headers=AUDIO).status_code == 413

    def parts():  # without a Content-Length
        for _ in range(100):
            yield b"x" * 100

    assert client.post("/translate/0", content=parts(), headers=AUDIO).status_code == 413
    assert client.post("/translate/0", content=b"x", headers={**AUDIO, "content-length": "-1"}).status_code == 413


def test_slow_upload_times_out(exported, monkeypatch):
    monkeypatch.setattr(server, "SLOWEST_UPLOAD", 0.2)
    sent = []

    async def receive():
        await asyncio.sleep(30)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/translate/0",
        "raw_path": b"/translate/0",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": None,
        "server": ("localhost", 80),
        "scheme": "http",
        "root_path": "",
    }
    asyncio.run(asyncio.wait_for(application([exported], ["localhost"])(scope, receive, send), 10))
    assert sent[0]["status"] == 408


def test_other_hosts_and_origins_are_refused(client):
    speech = SPEECH.read_bytes()
    refused = client.get("/", headers={"host": "evil.example:8000"})  # DNS rebinding: another name that resolves to this server
    assert refused.status_code == 400
    assert "start it with --name evil.example." in refused.text
    for host in ("", "[", "evil.example:", "evil.example/127.0.0.1", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "0x7f.1"):
        assert client.get("/", headers={"host": host}).status_code == 400, host
    for host in ("192.168.1.5:8000", "[fe80::1]:8000", "127.0.0.1", "LOCALHOST:80"):  # these cannot be other sites
        assert client.get("/", headers={"host": host}).status_code == 200, host
    other_origin = {**AUDIO, "origin": "http://evil.example"}
    assert client.post("/translate/0", content=speech, headers=other_origin).status_code == 403
    assert client.post("/translate/0", content=speech, headers={**AUDIO, "origin": "http://localhost"}).status_code == 200
    preflight = client.options("/translate/0", headers={"origin": "http://evil.example", "access-control-request-method": "POST"})
    assert "access-control-allow-origin" not in preflight.headers


def test_wrong_usage_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in (
            ([tmp_path, "--port", "0"], "has no model.json"),
            ([tmp_path, "--port", "70000"], "--port 70000"),
            ([tmp_path, "--port", port], f"cannot listen on --host 127.0.0.1 --port {port}: Address already in use"),
            ([tmp_path, "--host", "203.0.113.1"], "cannot listen on --host 203.0.113.1 --port 8000"),
            ([tmp_path, "--host", "no host"], "cannot listen on --host no host --port 8000"),
        ):
            result = cli("serve", *arguments, check=False)
            assert result.returncode == 2
            assert message in result.stderr
            assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::"])
def test_printed_addresses_reach_the_server(exported, host):
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    process = subprocess.Popen(
        [BIN / "residual-st", "serve", exported, "--host", host, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = process.stdout.readline().strip()
        assert httpx.get(f"{first}/models.json", trust_env=False).json()["models"]
        process.send_signal(signal.SIGINT)
        more, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert errors == ""
    for address in more.split():
        assert httpx.URL(address).port == httpx.URL(first).port
