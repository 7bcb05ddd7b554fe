"""Serve a web page that translates recorded speech or shows live captions, with exported models on this machine."""

import argparse
import contextlib
import socket
from pathlib import Path

from residual_st.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="DIR", help="exported folder; give several to compare them on the page"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on, 0.0.0.0 for all interfaces (default: 127.0.0.1, this machine only)",
    )
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="port to listen on, 0 for any free port (default: 8000)"
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help="additional host name that browsers may use for this machine; may be repeated",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="number of recordings or caption steps processed in parallel (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.port < 2**16 or args.jobs < 1:
        raise InputError(f"--port {args.port} must be from 0 to 65535, and --jobs {args.jobs} must be at least 1")
    import uvicorn

    from residual_st.web.captions import MOST_STREAMS, PROTOCOL
    from residual_st.web.server import application

    with _listening(args.host, args.port) as listening:
        server = application(args.models, ["localhost", args.host, *_network_names(args.host), *args.name], args.jobs)
        port = listening.getsockname()[1]
        for host in _addresses(args.host):
            print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        most = 16 + MOST_STREAMS
        config = uvicorn.Config(server, log_level="warning", timeout_keep_alive=5, limit_concurrency=most, **PROTOCOL)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens on the address. Raises InputError if the address is not this machine's or the port is in use."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, dualstack_ipv6=both)
    except OSError as error:
        raise InputError(
            f"cannot listen on --host {host} --port {port}: {error.strerror}; give another --host or --port"
        ) from error


def _is_every_address(host: str) -> bool:
    return host in ("0.0.0.0", "::")


def _network_names(host: str) -> list[str]:
    """This machine's names in its network, if it is reachable from there."""
    hostname = socket.gethostname()
    return [hostname, f"{hostname}.local"] if _is_every_address(host) else []


def _addresses(host: str) -> list[str]:
    """Addresses at which browsers reach the server; for all interfaces, the loopback address and the one in the network."""
    if not _is_every_address(host):
        return [host]
    addresses = ["127.0.0.1"]
    # no packet is sent: connect() only makes the system choose its source address
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            addresses.append(probe.getsockname()[0])
    return [address for address in addresses if host == "::" or ":" not in address]
