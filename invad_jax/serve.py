"""The page of a line: drop images or watch a folder, see map and decision, follow the shift.

    python -m invad_jax.serve --model part.invad
    python -m invad_jax.serve --workdir runs/hazelnut --watch /camera --history shifts/

Answers on this machine alone (127.0.0.1) unless --host says otherwise; there is no password. The
JSON interface is described at /openapi.json:

    curl --data-binary @part.png -H content-type:image/png http://127.0.0.1:8765/api/images?name=part

Needs the extra [serve]: pip install "invad-jax[serve]". Ctrl-C or SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from invad_jax.errors import UserError
from invad_jax.runtime import cli as command_line

_LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))


def main(args: argparse.Namespace) -> None:
    """Serves until it is stopped."""
    source = command_line.source_of(args)
    _check(args)
    listening = _listen(args.host, args.port)
    import uvicorn

    from invad_jax.inference import predictor as predictors
    from invad_jax.runtime.log import log
    from invad_jax.serving import app, line

    served = line.Line(predictors.of_source(source), Path(args.history) if args.history else None)
    hosts = _LOOPBACK | {args.host} if _is_loopback(args.host) else None
    watching = [os.path.basename(os.path.abspath(folder)) for folder in args.watch]
    application = app.create(served, source.path.name, args.max_megabytes * 10**6, watching, hosts)
    ended = threading.Event()
    if args.watch:
        arguments = (served, args.watch, ended.wait)
        threading.Thread(target=line.watch, args=arguments, daemon=True).start()
    host, port = listening.getsockname()[:2]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    listening.listen()  # who reads the next line may come at once
    log.info("serving %s on http://%s; Ctrl-C ends it", source.path, place)
    if hosts is None:
        log.warning("whoever reaches %s can use it: there is no password", place)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", ws="none"))
    try:
        with contextlib.suppress(KeyboardInterrupt):  # as it ends, after answering who has asked
            server.run(sockets=[listening])
    finally:
        ended.set()
        served.close()


def _check(args: argparse.Namespace) -> None:
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'{missing[0]} is not installed: pip install "invad-jax[serve]"')
    for folder in args.watch:
        if not os.path.isdir(folder):
            raise UserError(f"--watch {folder}: no such folder")
    if args.history and os.path.exists(args.history) and not os.path.isdir(args.history):
        raise UserError(f"--history {args.history}: is a file; give a folder")
    if args.max_megabytes < 1:
        raise UserError(f"--max-megabytes {args.max_megabytes}: at least 1")


def _listen(host: str, port: int) -> socket.socket:
    """Takes the port before the detector is loaded."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}: has to be one of 0 to {2**16 - 1}")
    listening = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        if listening:
            listening.close()
        raise UserError(f"--host {host} --port {port}: {error.strerror or error}") from error
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in _LOOPBACK


def cli(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = command_line.Parser(__doc__)
    parser.add_run(distributed=False)
    parser.add_model()
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1: this machine alone")
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any that is free")
    parser.add_argument(
        "--watch",
        nargs="+",
        action="extend",
        default=[],
        metavar="FOLDER",
        help="score what lies there, and what comes",
    )
    parser.add_argument("--history", metavar="DIR", help="gets a table of each shift")
    parser.add_argument("--max-megabytes", type=int, default=64, help="of an image; default 64")
    return command_line.run(main, parser, argv)


if __name__ == "__main__":
    sys.exit(cli())
