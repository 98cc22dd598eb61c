"""A Hugging Face hub of this machine: repositories of models in memory, over the real protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """What it holds."""

    def __init__(self):
        self.url = ""
        self.files: dict[str, dict[str, bytes]] = {}
        """Repository -> path -> content."""
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        """Method and path of every request."""

    def commit(self, repo: str) -> str:
        """The name of what a repository holds now."""
        listed = sorted((path, _sha1(content)) for path, content in self.files[repo].items())
        return _sha1(json.dumps(listed).encode())


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """Yields an empty one, for `HF_ENDPOINT`; it knows the token `secret`."""
    held = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, content, status=200, **headers):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status, code):
            self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

        def handle_any(self):
            path = unquote(urlsplit(self.path).path)
            held.asked.append(f"{self.command} {path}")
            length = int(self.headers.get("Content-Length") or 0)
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(length)
            if self.command == "POST" and "secret" not in self.headers.get("Authorization", ""):
                return self.refuse(401, "Unauthorized")
            for pattern, act in ROUTES.items():
                if found := re.fullmatch(pattern, f"{self.command} {path}"):
                    return act(self, body, *found.groups())
            return self.refuse(404, "EntryNotFound")

        def __getattr__(self, name):
            if name.startswith("do_"):
                return self.handle_any
            raise AttributeError(name)

    def create(request, body):
        told = json.loads(body)
        repo = (
            f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
        )
        if repo in held.files:
            return request.answer({"error": "exists", "url": f"{held.url}/{repo}"}, 409)
        held.files[repo], held.private[repo] = {}, told["visibility"] == "private"
        return request.answer({"url": f"{held.url}/{repo}", "id": repo, "name": repo})

    def validate(request, body):
        card = json.loads(body)["content"]
        wrong = not card.startswith("---\n") or card.count("\n---\n") < 1
        request.answer(
            {"errors": ["no header"] if wrong else [], "warnings": []}, 400 if wrong else 200
        )

    def preupload(request, body, repo, revision):
        sent = json.loads(body)["files"]
        modes = [
            {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in sent
        ]
        request.answer({"files": modes})

    def commit(request, body, repo, revision):
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                held.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del held.files[repo][value["path"]]
        name = held.commit(repo)
        request.answer({"commitUrl": f"{held.url}/{repo}/commit/{name}", "commitOid": name})

    def info(request, body, repo, *_):
        if repo not in held.files:
            return request.refuse(404, "RepoNotFound")
        siblings = [{"rfilename": path} for path in held.files[repo]]
        name = held.commit(repo)
        return request.answer(
            {
                "_id": "1",
                "id": repo,
                "modelId": repo,
                "sha": name,
                "private": held.private[repo],
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        )

    def tree(request, body, repo, *_):
        listed = [
            {"type": "file", "path": path, "size": len(content), "oid": _sha1(content)}
            for path, content in held.files[repo].items()
        ]
        request.answer(listed)

    def resolve(request, body, repo, revision, path):
        if path not in held.files.get(repo, {}):
            return request.refuse(404, "EntryNotFound")
        content = held.files[repo][path]
        headers = {"ETag": f'"{_sha1(content)}"', "X_Repo_Commit": held.commit(repo)}
        return request.answer(content, **headers)

    NAME = r"([\w.-]+/[\w.-]+)"
    ROUTES = {
        "POST /api/repos/create": create,
        "POST /api/validate-yaml": validate,
        rf"POST /api/models/{NAME}/preupload/(.+)": preupload,
        rf"POST /api/models/{NAME}/commit/(.+)": commit,
        rf"GET /api/models/{NAME}/tree/(.+?)": tree,
        rf"GET /api/models/{NAME}(/revision/.+)?": info,
        rf"(?:HEAD|GET) /{NAME}/resolve/([^/]+)/(.+)": resolve,
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        held.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield held
        finally:
            server.shutdown()
            thread.join()
