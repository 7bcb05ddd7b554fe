"""The page with the models behind it on this machine: `residual-st serve`."""

import asyncio
import io
import ipaddress
from dataclasses import fields
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import anyio
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from residual_st.errors import InputError, printable
from residual_st.languages import Direction
from residual_st.runtime import Settings, Translator
from residual_st.runtime.model import Model
from residual_st.web.static import PAGE, entry

LARGEST_UPLOAD = 64 * 2**20  # bytes: half an hour of 16-bit audio at 16 kHz
SLOWEST_UPLOAD = 120.0  # seconds
MOST_SAMPLES = 2**26  # that an upload may hold once it is decoded and resampled: 70 minutes at 16 kHz
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src blob:; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class _Refused(Exception):
    """A request that is not answered with a text: the status, and why."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def application(
    folders: list[Path],
    names: list[str],
    jobs: int = 1,
    settings: Settings = Settings(),  # noqa: B008 - frozen
) -> Starlette:
    """The server.

    Audio is sent as the body of `POST /translate/NUMBER`, of any format that `translate` reads; its query may have `task`,
    `source_lang` and `target_lang`. Requests for another host's name,
    which a page elsewhere could have resolved to this machine, and those that another site's page sends are refused; those for an
    address are not, since no page elsewhere can have made one lead here.

    Args:
        folders: exported models.
        names: by which browsers may ask for it, beside addresses.
        jobs: recordings that are translated at a time; others wait.
        settings: of the search.

    Raises:
        InputError: if a folder is not an exported model.
    """
    models = [Model(folder) for folder in folders]
    entries = [
        entry(model.folder) | {"number": number, "sample_rate": model.folder.sample_rate} for number, model in enumerate(models)
    ]
    limiter = anyio.CapacityLimiter(jobs)

    async def list_models(request: Request) -> JSONResponse:
        return JSONResponse({"engine": "server", "models": entries}, headers=_HEADERS)

    async def translate(request: Request) -> JSONResponse:
        try:
            _refuse_other_sites(request)
            number = request.path_params["number"]
            if number >= len(models):
                raise _Refused(404, f"There is no model {number}.")
            translator = Translator(models[number], settings, **_asked(request), most_samples=MOST_SAMPLES)
            audio = await _body(request)
            transcript = await anyio.to_thread.run_sync(partial(translator.translate, io.BytesIO(audio)), limiter=limiter)
        except _Refused as error:
            return JSONResponse({"error": str(error)}, error.status, headers=_HEADERS)
        except InputError as error:
            return JSONResponse({"error": str(error)}, 400, headers=_HEADERS)
        segments = [{"start": each.start, "end": each.end, "text": each.text} for each in transcript.segments]
        answer = {"text": transcript.text, "seconds": transcript.seconds, **vars(transcript.direction), "segments": segments}
        return JSONResponse(answer, headers=_HEADERS)

    routes = [
        Route("/models.json", list_models),
        Route("/translate/{number:int}", translate, methods=["POST"]),
        Mount("/", _Page(directory=PAGE, html=True)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_KnownHosts, names=names)])


class _KnownHosts:
    """Refuses requests for names that are not this server's."""

    def __init__(self, app, names: list[str]):
        self._app, self._names = app, {name.lower() for name in names}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            if not self._knows(host):
                name = printable(host.rpartition(":")[0] or host)
                sentence = f"This server does not know the name {name}; if it is this machine's, start it with --name {name}.\n"
                await PlainTextResponse(sentence, 400, headers=_HEADERS)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:  # no address, or no host at all
            return False


class _Page(StaticFiles):
    def file_response(self, *arguments, **keywords):
        response = super().file_response(*arguments, **keywords)
        response.headers.update(_HEADERS)
        return response


def _refuse_other_sites(request: Request) -> None:
    """A browser says where a page that sends a request is from; scripts outside browsers say nothing."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise _Refused(403, "Pages of other sites may not use this server.")


def _asked(request: Request) -> dict[str, str]:
    """What a query asks of a model. Raises _Refused for what it cannot ask."""
    query, known = dict(request.query_params), [field.name for field in fields(Direction)]
    other = next((name for name in query if name not in known), None)
    if other is not None:
        raise _Refused(400, f"The query has {other}={query[other]}; it must be of {', '.join(known)}.")
    return query


async def _body(request: Request) -> bytes:
    """The audio that is sent. Raises _Refused where it is too large, or takes too long."""
    too_large = _Refused(413, f"The recording is larger than {LARGEST_UPLOAD // 2**20} MiB.")
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
        raise _Refused(408, f"The recording was not here within {SLOWEST_UPLOAD:.0f} s.") from None
    return bytes(received)
