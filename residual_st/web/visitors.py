"""Access to the page's server: requests must use a name of this machine, and must not come from other sites' pages."""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse

from residual_st.errors import printable

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src blob:; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A refused request: status and message."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class KnownHosts:
    """Refuses requests and WebSockets for host names that are not this server's."""

    def __init__(self, app, names: list[str]):
        self._app, self._names = app, {name.lower() for name in names}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] in ("http", "websocket"):
            host = Headers(scope=scope).get("host", "")
            if not self._knows(host):
                name = printable(host.rpartition(":")[0] or host)
                sentence = (
                    f"This server does not accept the host name {name}; if it is this machine's, start it with --name {name}.\n"
                )
                await PlainTextResponse(sentence, 400, headers=HEADERS)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:  # invalid or missing host
            return False


def refuse_other_sites(request: HTTPConnection) -> None:
    """Raise Refused for a request from another site's page. Browsers send the page's origin; other programs send none."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Refused(403, "Pages of other sites may not use this server.")
