"""Serve a page that records speech and translates it with exported models on this machine."""

import argparse
from pathlib import Path

from residual_st.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", type=Path, metavar="DIR", help="exported folder; several to compare")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="(default: 8000)")
    parser.add_argument(
        "--name", action="append", default=[], metavar="NAME", help="another name that browsers may ask for it by, with --host"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="recordings at a time (default: 1)")


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.port < 2**16 or args.jobs < 1:
        raise InputError(f"--port {args.port} and --jobs {args.jobs} must be from 0 to 65535, and 1 or more")
    import uvicorn

    from residual_st.web.server import application

    hosts = ["127.0.0.1", "localhost", "[::1]", args.host, *args.name]
    server = application(args.models, hosts, args.jobs)
    print(f"http://{args.host}:{args.port} until interrupted", flush=True)
    uvicorn.run(server, host=args.host, port=args.port, log_level="warning", timeout_keep_alive=5, limit_concurrency=16)
    return 0
