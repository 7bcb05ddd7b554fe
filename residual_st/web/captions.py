"""Live captions: audio arrives over a WebSocket, and the growing text is sent back.

A client sends a JSON object with the `rate` of its audio, and optionally more of `ASKED`; then frames of mono samples as they
arrive; then `{"end_of_stream": true}`. It receives the output of `residual-st listen --json`, or one `{"error": "…"}`, and the
connection is closed.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from functools import partial
from typing import TypedDict, TypeVar

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
MOST_WAITING = 32  # unprocessed frames per client; the client then waits before it sends more
SLOWEST = 60.0  # maximum time in seconds without a frame, or until an update is received
LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000  # Hz
ASKED: dict[str, type | tuple[type, ...]] = {
    "rate": int,
    "sample_type": str,
    "policy": str,
    "chunk_seconds": (int, float),
    **{field.name: str for field in fields(Direction)},
}


class ProtocolSettings(TypedDict):
    """Settings of `uvicorn.Config`."""

    ws_max_size: int
    ws_per_message_deflate: bool
    ws_ping_interval: float | None


# deflate does not compress audio, and a client that waits before it sends more cannot answer pings
PROTOCOL: ProtocolSettings = {"ws_max_size": LARGEST_FRAME, "ws_per_message_deflate": False, "ws_ping_interval": None}
_REFUSED = 1008  # policy violation, by RFC 6455
_Result = TypeVar("_Result")


class Captions:
    """The streams of a server, one per client.

    Args:
        models: the models; a client selects one by its number.
        settings: search settings.
        jobs: number of steps processed in parallel; others wait.
    """

    def __init__(self, models: list[Model], settings: Settings, jobs: int):
        self._models, self._settings, self._open = models, settings, 0
        self._limiter = anyio.CapacityLimiter(jobs)

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client from its first message to its last."""
        try:
            refuse_other_sites(socket)
        except Refused as error:
            await socket.send_denial_response(JSONResponse({"error": str(error)}, error.status, headers=HEADERS))
            return
        await socket.accept()
        self._open += 1
        try:
            if self._open > MOST_STREAMS:
                raise InputError(f"all {MOST_STREAMS} streams are in use; try again later")
            await self._caption(socket)
        except InputError as error:
            with contextlib.suppress(WebSocketDisconnect):
                await _send(socket, {"error": str(error)})
                await socket.close(_REFUSED)
        except WebSocketDisconnect:
            pass  # the client left before the last message
        finally:
            self._open -= 1

    async def _caption(self, socket: WebSocket) -> None:
        stream, rate, kind = self._begun(socket.path_params["number"], await _received(socket))
        sending: MemoryObjectSendStream[np.ndarray]
        receiving: MemoryObjectReceiveStream[np.ndarray]
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

    async def _computed(self, step: Callable[[], _Result]) -> _Result:
        return await anyio.to_thread.run_sync(step, limiter=self._limiter)

    def _begun(self, number: int, message: str | bytes | None) -> tuple[Stream, int, np.dtype]:
        """The stream requested by a first message, with the rate and the type of its samples."""
        if number >= len(self._models):
            raise InputError(f"there is no model {number}")
        settings = _settings(message)
        rate, name = settings.pop("rate", None), settings.pop("sample_type", "f32le")
        if rate is None or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise InputError(f"rate={rate} must be from {LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz")
        if name not in SAMPLE_TYPES:
            raise InputError(f"sample_type={name} is not known; it must be one of {', '.join(SAMPLE_TYPES)}")
        return Stream(self._models[number], settings=self._settings, **settings), rate, np.dtype(SAMPLE_TYPES[name])


def _settings(message: str | bytes | None) -> dict:
    """The values of a client's first message, without null."""
    settings = _object(message)
    if settings is None:
        raise InputError(f'the first message must be a JSON object with {", ".join(ASKED)}, such as {{"rate": 16000}}')
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, value in settings.items():
        if name not in ASKED:
            raise InputError(f"the first message has {name}; each key must be one of {', '.join(ASKED)}")
        if not isinstance(value, ASKED[name]) or isinstance(value, bool):
            raise InputError(f"{name}={json.dumps(value)} must be {'text' if ASKED[name] is str else 'a number'}")
    return settings


def _object(message: str | bytes | None) -> dict | None:
    """A message as a JSON object; None if it is not one."""
    try:
        value = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


async def _read(socket: WebSocket, kind: np.dtype, sending: MemoryObjectSendStream[np.ndarray]) -> bool:
    """Forward the samples of each frame. Returns True if the client ended the stream, False if it disconnected."""
    with sending:
        while True:
            frame = await _received(socket)
            if frame is None:
                return False
            if isinstance(frame, str):
                if _object(frame) != {"end_of_stream": True}:
                    raise InputError('after the first message there must be samples, and then {"end_of_stream": true}')
                return True
            if len(frame) % kind.itemsize:
                raise InputError(f"a frame has {len(frame)} bytes; it must be a multiple of {kind.itemsize}, the size of a sample")
            await sending.send(np.frombuffer(frame, kind))


async def _together(frames: MemoryObjectReceiveStream[np.ndarray]) -> AsyncIterator[np.ndarray]:
    """Join the frames that arrived during the last step, so that slow steps become longer and fewer."""
    async for frame in frames:
        pieces = [frame]
        with contextlib.suppress(anyio.WouldBlock, anyio.EndOfStream):
            while True:
                pieces.append(frames.receive_nowait())
        yield np.concatenate(pieces)


async def _received(socket: WebSocket) -> str | bytes | None:
    """The next message; None if the client has disconnected."""
    try:
        message = await asyncio.wait_for(socket.receive(), SLOWEST)
    except asyncio.TimeoutError:
        raise InputError(f"no audio arrived for {SLOWEST:.0f} s") from None
    text = message.get("text")
    return message.get("bytes") if text is None else text


async def _send(socket: WebSocket, message: dict) -> None:
    """Send a message. Raises WebSocketDisconnect if the client has disconnected or does not receive it."""
    try:
        await asyncio.wait_for(socket.send_text(json.dumps(message, ensure_ascii=False)), SLOWEST)
    except asyncio.TimeoutError:
        raise WebSocketDisconnect from None
