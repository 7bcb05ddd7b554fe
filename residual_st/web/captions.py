"""Live captions: sound comes over a WebSocket, and its text goes back while it grows.

A client sends a JSON object with the `rate` of its sound, and maybe more of `ASKED`; then frames of mono samples as they come; then
`{"end_of_stream": true}`. It gets what `residual-st listen --json` prints, or one `{"error": "…"}`, and the end of the connection.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import fields
from functools import partial

import anyio
import numpy as np
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from residual_st.errors import InputError
from residual_st.languages import Direction
from residual_st.runtime import Settings
from residual_st.runtime.model import Model
from residual_st.streaming import Stream
from residual_st.streaming.inputs import SAMPLE_TYPES
from residual_st.web.visitors import HEADERS, Refused, refuse_other_sites

MOST_STREAMS = 16
LARGEST_FRAME = 2**16  # bytes
MOST_WAITING = 32  # frames of one client that are not computed with; it waits before it sends more
SLOWEST = 60.0  # seconds without a frame, or in which one update is not taken
LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000  # Hz
ASKED = {"rate": int, "sample_type": str, "policy": str, "chunk_seconds": (int, float)}
ASKED |= {field.name: str for field in fields(Direction)}
# for uvicorn. Sound is not compressed by deflate. A client that waits before it sends more is not heard to answer pings
PROTOCOL = {"ws_max_size": LARGEST_FRAME, "ws_per_message_deflate": False, "ws_ping_interval": None}
_REFUSED = 1008  # policy violation, by RFC 6455


class Captions:
    """The streams of a server, one a client.

    Args:
        models: of which each client names one by its number.
        settings: of the search.
        jobs: steps that are computed at a time; others wait.
    """

    def __init__(self, models: list[Model], settings: Settings, jobs: int):
        self._models, self._settings, self._open = models, settings, 0
        self._limiter = anyio.CapacityLimiter(jobs)

    async def serve(self, socket: WebSocket) -> None:
        """One client, from its first message to its last."""
        try:
            refuse_other_sites(socket)
        except Refused as error:
            await socket.send_denial_response(JSONResponse({"error": str(error)}, error.status, headers=HEADERS))
            return
        await socket.accept()
        self._open += 1
        try:
            if self._open > MOST_STREAMS:
                raise InputError(f"{MOST_STREAMS} streams are open, which is the most; try again later")
            await self._caption(socket)
        except InputError as error:
            with contextlib.suppress(WebSocketDisconnect):
                await _send(socket, {"error": str(error)})
                await socket.close(_REFUSED)
        except WebSocketDisconnect:
            pass  # what it was told last it does not want to hear
        finally:
            self._open -= 1

    async def _caption(self, socket: WebSocket) -> None:
        stream, rate, kind = self._begun(socket.path_params["number"], await _received(socket))
        sending, receiving = anyio.create_memory_object_stream(MOST_WAITING)
        reading = asyncio.create_task(_read(socket, kind, sending))
        try:
            async for samples in _together(receiving):
                if socket.client_state is WebSocketState.DISCONNECTED:
                    return
                for update in await self._computed(partial(stream.feed, samples, rate)):
                    await _send(socket, update.as_json())
            if await reading:
                await _send(socket, (await self._computed(stream.finish)).as_json())
                await socket.close()
        finally:
            reading.cancel()

    async def _computed(self, step: partial):
        return await anyio.to_thread.run_sync(step, limiter=self._limiter)

    def _begun(self, number: int, message: str | bytes | None) -> tuple[Stream, int, np.dtype]:
        """The stream that a first message asks for, with the rate and the type of its samples."""
        if number >= len(self._models):
            raise InputError(f"there is no model {number}")
        asked = _asked(message)
        rate, name = asked.pop("rate", None), asked.pop("sample_type", "f32le")
        if rate is None or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise InputError(f"rate={rate} must be from {LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz")
        if name not in SAMPLE_TYPES:
            raise InputError(f"sample_type={name} is not known; it must be one of {', '.join(SAMPLE_TYPES)}")
        return Stream(self._models[number], settings=self._settings, **asked), rate, np.dtype(SAMPLE_TYPES[name])


def _asked(message: str | bytes | None) -> dict:
    """What a client asks for, null left out."""
    asked = _object(message)
    if asked is None:
        raise InputError(f'the first message must be a JSON object with {", ".join(ASKED)}, such as {{"rate": 16000}}')
    asked = {name: value for name, value in asked.items() if value is not None}
    for name, value in asked.items():
        if name not in ASKED:
            raise InputError(f"the first message has {name}; it must be of {', '.join(ASKED)}")
        if not isinstance(value, ASKED[name]) or isinstance(value, bool):
            raise InputError(f"{name}={json.dumps(value)} must be {'text' if ASKED[name] is str else 'a number'}")
    return asked


def _object(message: str | bytes | None) -> dict | None:
    """What a JSON object says; None of another message."""
    try:
        found = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


async def _read(socket: WebSocket, kind: np.dtype, sending: MemoryObjectSendStream) -> bool:
    """Pass the samples of each frame on; returns whether the client said that they end, and did not just leave."""
    with sending:
        while True:
            frame = await _received(socket)
            if frame is None:
                return False
            if isinstance(frame, str):
                if _object(frame) != {"end_of_stream": True}:
                    raise InputError('behind the first message there must be samples, and at their end {"end_of_stream": true}')
                return True
            if len(frame) % kind.itemsize:
                raise InputError(f"a frame has {len(frame)} bytes, but a sample {kind.itemsize}")
            await sending.send(np.frombuffer(frame, kind))


async def _together(frames: MemoryObjectReceiveStream) -> AsyncIterator[np.ndarray]:
    """What came while the frames before were dealt with, as one: where that takes long, steps are longer, and fewer."""
    async for frame in frames:
        pieces = [frame]
        with contextlib.suppress(anyio.WouldBlock, anyio.EndOfStream):
            while True:
                pieces.append(frames.receive_nowait())
        yield np.concatenate(pieces)


async def _received(socket: WebSocket) -> str | bytes | None:
    """The next message; None where the client has left."""
    try:
        message = await asyncio.wait_for(socket.receive(), SLOWEST)
    except asyncio.TimeoutError:
        raise InputError(f"nothing came for {SLOWEST:.0f} s") from None
    text = message.get("text")
    return message.get("bytes") if text is None else text


async def _send(socket: WebSocket, message: dict) -> None:
    """Raises WebSocketDisconnect where the client has left, or does not take it."""
    try:
        await asyncio.wait_for(socket.send_text(json.dumps(message, ensure_ascii=False)), SLOWEST)
    except asyncio.TimeoutError:
        raise WebSocketDisconnect from None
