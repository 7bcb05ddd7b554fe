"""Live captions over a WebSocket equal those of `Stream`, and any client is handled."""

import asyncio
import contextlib
import gc
import json
import socket
import sys
import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest
import uvicorn
from conftest import ROOT
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from residual_st.runtime import Settings
from residual_st.streaming import Stream
from residual_st.web import captions
from residual_st.web.captions import LARGEST_FRAME, MOST_STREAMS, PROTOCOL
from residual_st.web.server import application

sys.path.append(str(ROOT / "tests" / "streaming"))
from streams import RATE, talk, updates_of  # noqa: E402

SETTINGS = Settings(beam=2, max_len_b=12)
END = json.dumps({"end_of_stream": True})


@pytest.fixture
def address(exported):
    """The address of live captions from a server in this process, configured as by `residual-st serve`."""
    server = uvicorn.Server(uvicorn.Config(application([exported], ["localhost"], settings=SETTINGS), **PROTOCOL))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/captions/0"
        server.should_exit = True
        thread.join()


@pytest.fixture
def streams(monkeypatch):
    """The streams of the server that are still referenced."""
    alive = weakref.WeakSet()

    class Watched(Stream):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            alive.add(self)

    monkeypatch.setattr(captions, "Stream", Watched)
    return alive


async def captions_of(address: str, sound: np.ndarray, rate: int = RATE, **options) -> list[dict]:
    """The updates for a client that sends samples and waits for each step."""
    updates = []
    async with connect(address) as client:
        await client.send(json.dumps({"rate": rate, **options}))
        for start in range(0, len(sound), rate):
            for place in range(start, min(start + rate, len(sound)), rate // 10):
                await client.send(sound[place : min(place + rate // 10, start + rate)].tobytes())
            if start + rate <= len(sound):
                updates.append(json.loads(await client.recv()))
        await client.send(END)
        updates += [json.loads(message) async for message in client]
        assert client.close_code == 1000
    return updates


async def refusal(address: str, *messages) -> tuple[str, int]:
    """The error message that a client receives, and the close code."""
    async with connect(address) as client:
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                await client.send(message)
        rows = [json.loads(message) for message in [await client.recv()]]
        with pytest.raises(ConnectionClosed):
            while True:
                rows.append(json.loads(await client.recv()))
        return rows[-1]["error"], client.close_code


def wait_until_freed(streams: weakref.WeakSet) -> None:
    began = time.monotonic()
    while streams:
        assert time.monotonic() - began < 20
        time.sleep(0.05)
        gc.collect()  # exceptions and their frames refer to each other


@pytest.mark.parametrize("policy", ["local-agreement", "alignatt", "retranslation"])
def test_captions_equal_those_of_a_stream(policy, address, exported):
    """They arrive during speech: `captions_of` waits for them."""
    expected = [update.as_json() for update in updates_of(Stream(exported, policy, SETTINGS), talk())]
    updates = asyncio.run(captions_of(address, talk(), policy=policy))
    assert updates == expected
    assert sum(len(update["closed"]) for update in updates) == 2
    whole = (talk() * (2**15 - 1)).astype("<i2")
    expected = [update.as_json() for update in updates_of(Stream(exported, policy, SETTINGS), whole)]
    assert asyncio.run(captions_of(address, whole, sample_type="s16le", policy=policy, chunk_seconds=1)) == expected


def test_ten_simultaneous_clients(address, exported, streams):
    """One disconnects in the middle, one sends NaN, and one sends everything at once."""
    sound = talk()
    expected = [update.as_json() for update in updates_of(Stream(exported, settings=SETTINGS), sound)]

    async def disconnecting():
        async with connect(address) as client:
            await client.send(json.dumps({"rate": RATE}))
            await client.send(sound[:16_000].tobytes())
            await client.recv()
            await client.send(sound[16_000:30_000].tobytes())
            client.transport.abort()

    async def sending_at_once():
        async with connect(address) as client:
            await client.send(json.dumps({"rate": RATE}))
            for start in range(0, len(sound), 16_000):
                await client.send(sound[start : start + 16_000].tobytes())
            await client.send(END)
            return [json.loads(message) async for message in client]

    async def clients():
        not_a_number = json.dumps({"rate": RATE}), np.full(1600, np.nan, "<f4").tobytes()
        return await asyncio.gather(
            disconnecting(), sending_at_once(), refusal(address, *not_a_number), *(captions_of(address, sound) for _ in range(7))
        )

    _, sent_at_once, refused, *expected_updates = asyncio.run(clients())
    assert refused == ("the stream contains samples that are not finite numbers", 1008)
    assert expected_updates == [expected] * 7
    assert sent_at_once[-1]["seconds"] == expected[-1]["seconds"]
    assert len([segment for update in sent_at_once for segment in update["closed"]]) == 2
    wait_until_freed(streams)


def test_fast_client_is_blocked_until_the_model_catches_up(address, monkeypatch):
    """Its samples are neither buffered without limit nor lost. Here the first step lasts until the client is blocked."""
    feed, may_end = Stream.feed, threading.Event()

    def slow(self, *arguments):
        assert may_end.wait(30)
        return feed(self, *arguments)

    monkeypatch.setattr(Stream, "feed", slow)
    frame, most = bytes(LARGEST_FRAME), 1000

    async def client() -> tuple[int, float]:
        async with connect(address) as socket:
            await socket.send(json.dumps({"rate": RATE, "sample_type": "s32le"}))
            sent = 0
            while sent < most:
                sent += 1
                sending = asyncio.ensure_future(socket.send(frame))
                if not (await asyncio.wait([sending], timeout=1))[0]:
                    break
            may_end.set()
            await sending
            await socket.send(END)
            return sent, json.loads([message async for message in socket][-1])["seconds"]

    tracemalloc.start()
    sent, seconds = asyncio.run(client())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sent < most
    assert seconds == round(sent * LARGEST_FRAME / 4 / RATE, 3)
    assert peak < 40e6


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("{}", "rate=None must be from 8,000 to 192,000 Hz"),
        ('{"rate": 10}', "rate=10 must be from 8,000 to 192,000 Hz"),
        ('{"rate": "16000"}', 'rate="16000" must be a number'),
        ('{"rate": true}', "rate=true must be a number"),
        (
            '{"rate": 16000, "lang": "de"}',
            "the first message has lang; each key must be one of rate, sample_type, policy, chunk_seconds, task",
        ),
        ('{"rate": 16000, "target_lang": "de"}', "the model has one target language, so target_lang must not be given"),
        ('{"rate": 16000, "task": []}', "task=[] must be text"),
        ('{"rate": 16000, "policy": "wait-k"}', "policy=wait-k is not known; it must be one of local-agreement"),
        ('{"rate": 16000, "sample_type": "mp3"}', "sample_type=mp3 is not known; it must be one of s16le"),
        ('{"rate": 16000, "chunk_seconds": NaN}', "chunk_seconds=nan must be from 0.1 to 10"),
        ("[" * 60_000, "the first message must be a JSON object with rate"),
        ("hello", "the first message must be a JSON object with rate"),
        (b"\0\0\0\0", "the first message must be a JSON object with rate"),
    ],
)
def test_invalid_first_messages_are_refused(message, sentence, address):
    error, code = asyncio.run(refusal(address, message))
    assert sentence in error and code == 1008


def test_invalid_later_messages_are_refused(address):
    first = json.dumps({"rate": RATE})
    for message, sentence in (
        (b"\0" * 7, "a frame has 7 bytes; it must be a multiple of 4, the size of a sample"),
        ("more", 'after the first message there must be samples, and then {"end_of_stream": true}'),
        (np.full(10, np.inf, "<f4").tobytes(), "the stream contains samples that are not finite numbers"),
    ):
        assert asyncio.run(refusal(address, first, message)) == (sentence, 1008)
    assert asyncio.run(refusal(address.replace("/0", "/7"), first)) == ("there is no model 7", 1008)

    async def large():
        async with connect(address) as client:
            await client.send(first)
            await client.send(bytes(LARGEST_FRAME + 4))
            await client.recv()

    with pytest.raises(ConnectionClosedError, match="1009"):
        asyncio.run(large())


def test_silent_client_is_disconnected(address, streams, monkeypatch):
    monkeypatch.setattr(captions, "SLOWEST", 0.2)
    assert asyncio.run(refusal(address)) == ("no audio arrived for 0 s", 1008)
    assert asyncio.run(refusal(address, json.dumps({"rate": RATE}))) == ("no audio arrived for 0 s", 1008)
    wait_until_freed(streams)


def test_too_many_clients_are_refused(address):
    async def clients():
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(MOST_STREAMS):
                await stack.enter_async_context(connect(address))
            return await refusal(address)

    assert asyncio.run(clients()) == ("all 16 streams are in use; try again later", 1008)
    assert asyncio.run(captions_of(address, talk()[:20_000]))


def test_other_hosts_and_origins_are_refused_for_captions(address):
    async def status(**keywords) -> int:
        with pytest.raises(InvalidStatus) as refused:
            await connect(address, **keywords)
        return refused.value.response.status_code

    assert asyncio.run(status(origin="http://evil.example")) == 403
    port = int(address.split(":")[2].split("/")[0])
    evil = {"host": "127.0.0.1", "port": port}  # DNS rebinding: another name that resolves to this server
    named = address.replace("127.0.0.1", "evil.example")

    async def by_name() -> int:
        with pytest.raises(InvalidStatus) as refused:
            await connect(named, **evil)
        return refused.value.response.status_code

    assert asyncio.run(by_name()) == 400
