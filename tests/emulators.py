"""Buckets of this machine: a Cloud Storage and an S3 that lie in memory, and their bad days.

    python -m tests.emulators --latency 0.05 gs COMMAND...

starts one with an empty `gs://bucket`, and the command, which uses it.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import logging
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, partialmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

BUCKET = "bucket"
KINDS = ("503", "429", "silence", "short")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that goes away, as killed processes do, is no event."""


@contextmanager
def _served(handler) -> Iterator[str]:
    """Yields the URL of a server on a free port."""
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def cloud_storage() -> Iterator[str]:
    """Yields the URL of a Cloud Storage with one empty bucket."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator")
    pytest.importorskip("gcsfs", reason="the extra [cloud]")
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    from gcp_storage_emulator.exceptions import NotFound

    storage = emulator.create_server("127.0.0.1", 0, True, BUCKET)._storage
    lock = threading.Lock()

    class Handler(emulator.RequestHandler):
        """One request at a time, and generations, which the emulator counts and does not heed."""

        def do(self, method):
            with lock:
                self.generation = self._generation()
                status = self._refused()
                if not status:
                    getattr(super(), method)()
                    return
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response_only(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_GET = partialmethod(do, "do_GET")  # noqa: N815
        do_POST = partialmethod(do, "do_POST")  # noqa: N815
        do_PUT = partialmethod(do, "do_PUT")  # noqa: N815
        do_DELETE = partialmethod(do, "do_DELETE")  # noqa: N815

        def end_headers(self):
            if self.generation != "0":
                self.send_header("x-goog-generation", self.generation)
            super().end_headers()

        def _generation(self) -> str:
            """Of the object that is asked for; 0: there is none."""
            url = urlsplit(self.path)
            asked = parse_qs(url.query)
            (name,) = asked.get("name") or [""]
            if asked.get("uploadType") == ["multipart"]:  # which says it in its first part
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.rfile = io.BytesIO(body)
                name = json.loads(re.search(rb"\r?\n\r?\n(\{.*\})\s*\r?\n--", body)[1])["name"]
            found = re.search(r"/o/(.+)", url.path)
            try:
                file = storage.get_file_obj(BUCKET, unquote(found[1]) if found else name)
            except NotFound:
                return "0"
            return file["generation"]

        def _refused(self) -> int:
            """The status where a precondition does not hold; else 0."""
            asked = parse_qs(urlsplit(self.path).query)
            if asked.get("ifGenerationMatch", [self.generation]) != [self.generation]:
                return 412
            return 304 if asked.get("ifGenerationNotMatch") == [self.generation] else 0

    with _served(partial(Handler, storage)) as url:
        yield url


@contextmanager
def s3() -> Iterator[str]:
    """Yields the URL of an S3 with one empty bucket."""
    pytest.importorskip("s3fs", reason="the extra [cloud]")
    server_module = pytest.importorskip("moto.server", reason="moto")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server.start()
    try:
        host, port = server.get_host_and_port()
        # Its objects are those of the process: of an earlier one, too.
        for method, path in (("POST", "/moto-api/reset"), ("PUT", f"/{BUCKET}")):
            connection = http.client.HTTPConnection(host, port)
            connection.request(method, path, headers=_SIGNED)
            assert connection.getresponse().status == 200
            connection.close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


_SIGNED = {
    "Host": "s3.amazonaws.com",
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/s3/aws4_request",
}


class Faults:
    """What a bad day is made of; counts what it did, and keeps what it was asked."""

    def __init__(
        self, one_in: int, seed: int = 0, kinds: tuple[str, ...] = KINDS, latency: float = 0
    ):
        """One request of so many goes wrong, in one of these ways; each waits so many seconds."""
        self.one_in, self.kinds, self.latency = one_in, kinds, latency
        self.count = Counter[str]()
        self.asked: list[str] = []
        self._rng, self._lock = random.Random(seed), threading.Lock()

    def draw(self, request: str) -> str:
        """What happens to the next request, as `GET /path?query`; empty: nothing."""
        with self._lock:
            self.count["requests"] += 1
            self.asked.append(request)
            wrong = self.one_in and self._rng.randrange(self.one_in) == 0
            kind = self._rng.choice(self.kinds) if wrong else ""
            self.count[kind] += 1
            return kind


@contextmanager
def bad_day(store: str, faults: Faults, silence_s: float = 3.0) -> Iterator[str]:
    """Yields the URL of a store that fails now and then.

    Args:
      store: URL of the store behind it.
      faults: what goes wrong. A status comes before the request is carried out; after `silence_s`
        without a word the connection is closed, the request carried out; a short answer has the
        length of the whole one in its header.
      silence_s: seconds.
    """
    address = store.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which tells clients that ask to go on with their content

        def _forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = faults.draw(f"{self.command} {self.path}")
            self.close_connection = True
            time.sleep(faults.latency)
            if kind.isdigit():
                self.send_response_only(int(kind))
                self.send_header("Connection", "close")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if kind == "silence":
                time.sleep(silence_s)
                return
            self.send_response_only(answer.status)
            self.send_header("Connection", "close")
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if kind == "short" else content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _forward  # noqa: N815

        def log_message(self, format, *arguments):
            """Says nothing."""

    with _served(Handler) as url:
        yield url


@contextmanager
def used(
    scheme: str, faults: Faults | None = None, silence_s: float = 3.0
) -> Iterator[dict[str, str]]:
    """An empty bucket of `gs` or `s3` that all clients of this process use; yields the environment
    for others."""
    gs = scheme == "gs"
    with ExitStack() as stack:
        url = stack.enter_context(cloud_storage() if gs else s3())
        if faults:
            url = stack.enter_context(bad_day(url, faults, silence_s))
        environment = environment_of_gs(url) if gs else environment_of_s3(url)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in environment.items():
            patch.setenv(name, value)
        _forget_clients()
        stack.callback(_forget_clients)
        yield environment


def _forget_clients() -> None:
    """fsspec and epath keep a client for a process."""
    import fsspec
    from etils.epath import backend

    for scheme in ("gs", "gcs", "s3"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()


def environment_of_gs(url: str) -> dict[str, str]:
    """What makes gcsfs, google-cloud-storage and tensorstore use it, without credentials."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "NO_GCE_CHECK": "true",
        "GCE_METADATA_ROOT": "127.0.0.1:1",  # no metadata server is looked for
    }


def environment_of_s3(url: str) -> dict[str, str]:
    """What makes s3fs and tensorstore use it."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def main() -> int:
    """An emulator around a command; returns its status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scheme", choices=("gs", "s3"))
    parser.add_argument("--latency", type=float, default=0, help="seconds before each answer")
    parser.add_argument("--faults", type=int, default=0, help="one request of so many goes wrong")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    with used(args.scheme, Faults(args.faults, latency=args.latency)) as environment:
        return subprocess.run(args.command, env=os.environ | environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
