"""The server of the web page and its models: `residual-st serve`."""

import asyncio
import io
from dataclasses import fields
from functools import partial
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from residual_st.errors import InputError
from residual_st.languages import Direction
from residual_st.runtime import Settings, Translator
from residual_st.runtime.model import Model
from residual_st.web.captions import Captions
from residual_st.web.static import PAGE, entry
from residual_st.web.visitors import HEADERS, KnownHosts, Refused, refuse_other_sites

LARGEST_UPLOAD = 64 * 2**20  # bytes: half an hour of 16-bit audio at 16 kHz
SLOWEST_UPLOAD = 120.0  # seconds
MOST_SAMPLES = 2**26  # maximum length of a decoded and resampled upload: 70 minutes at 16 kHz


def application(
    folders: list[Path],
    names: list[str],
    jobs: int = 1,
    settings: Settings = Settings(),  # noqa: B008 - frozen
) -> Starlette:
    """The ASGI application of the server.

    Audio is the body of `POST /translate/NUMBER`, in any format that `translate` reads; its query may have `task`,
    `source_lang` and `target_lang`. Live captions are a WebSocket at `/captions/NUMBER`, see `residual_st.web.captions`.

    Requests for another host name (DNS rebinding) and requests from other sites' pages are refused. Requests for an IP address are
    accepted: DNS rebinding needs a name.

    Args:
        folders: exported models.
        names: host names accepted in addition to IP addresses.
        jobs: number of recordings, and of caption steps, processed in parallel; others wait.
        settings: search settings.

    Raises:
        InputError: if a folder is not an exported model.
    """
    models = [Model(folder) for folder in folders]
    entries = [
        entry(model.folder) | {"number": number, "sample_rate": model.folder.sample_rate} for number, model in enumerate(models)
    ]
    limiter = anyio.CapacityLimiter(jobs)

    async def list_models(request: Request) -> JSONResponse:
        return JSONResponse({"engine": "server", "models": entries}, headers=HEADERS)

    async def translate(request: Request) -> JSONResponse:
        try:
            refuse_other_sites(request)
            number = request.path_params["number"]
            if number >= len(models):
                raise Refused(404, f"There is no model {number}.")
            translator = Translator(models[number], settings, **vars(_direction(request)), most_samples=MOST_SAMPLES)
            audio = await _body(request)
            transcript = await anyio.to_thread.run_sync(partial(translator.translate, io.BytesIO(audio)), limiter=limiter)
        except Refused as error:
            return JSONResponse({"error": str(error)}, error.status, headers=HEADERS)
        except InputError as error:
            return JSONResponse({"error": str(error)}, 400, headers=HEADERS)
        segments = [{"start": each.start, "end": each.end, "text": each.text} for each in transcript.segments]
        answer = {"text": transcript.text, "seconds": transcript.seconds, **vars(transcript.direction), "segments": segments}
        return JSONResponse(answer, headers=HEADERS)

    routes = [
        Route("/models.json", list_models),
        Route("/translate/{number:int}", translate, methods=["POST"]),
        WebSocketRoute("/captions/{number:int}", Captions(models, settings, jobs).serve),
        Mount("/", _Page(directory=PAGE, html=True)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(KnownHosts, names=names)])


class _Page(StaticFiles):
    def file_response(self, *arguments, **keywords):
        response = super().file_response(*arguments, **keywords)
        response.headers.update(HEADERS)
        return response


def _direction(request: Request) -> Direction:
    """The direction in a query. Raises Refused for other keys."""
    query, known = dict(request.query_params), [field.name for field in fields(Direction)]
    other = next((name for name in query if name not in known), None)
    if other is not None:
        raise Refused(400, f"The query has {other}={query[other]}; each key must be one of {', '.join(known)}.")
    return Direction(**query)


async def _body(request: Request) -> bytes:
    """The uploaded audio. Raises Refused if it is too large or takes too long."""
    too_large = Refused(413, f"The recording is larger than {LARGEST_UPLOAD // 2**20} MiB.")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > LARGEST_UPLOAD:
        raise too_large
    received = bytearray()

    async def receive() -> None:
        async for part in request.stream():
            received.extend(part)
            if len(received) > LARGEST_UPLOAD:
                raise too_large

    try:
        await asyncio.wait_for(receive(), SLOWEST_UPLOAD)
    except asyncio.TimeoutError:
        raise Refused(408, f"The upload of the recording took more than {SLOWEST_UPLOAD:.0f} s.") from None
    return bytes(received)
