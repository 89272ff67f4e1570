"""The Hub, stood in for by a server on this machine: what `huggingface_hub` calls to upload to model repositories.

It keeps repositories and the contents of large files in memory, and can be told to refuse a request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


LARGE = (".safetensors", ".jpg")  # what the Hub keeps as large files


def git_name(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer(ThreadingHTTPServer):
    """The state of the Hub.

    Attributes:
        repositories: "owner/name" -> path -> ("lfs", sha256) or ("regular", content).
        store: contents of large files by their sha256, also of those that no commit names yet.
        requests: "METHOD /path" of everything that was asked, in order.
        commits: headers of commits (summary, description), in order.
        refuse: given "METHOD /path", the status to answer with, or None to serve it.
    """

    daemon_threads = True
    token = "hf_right"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, tuple[str, bytes | str]]] = {}
        self.store: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.commits: list[dict] = []
        self.refuse: Callable[[str], int | None] = lambda request: None

    def count(self, pattern: str) -> int:
        """How many requests fit a pattern."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    def content(self, repository: str, path: str) -> bytes:
        """The bytes of a file in a repository."""
        kind, value = self.repositories[repository][path]
        return self.store[value] if kind == "lfs" else value


@contextmanager
def hub_server():
    """A server that runs until the block ends."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _serve(self) -> None:
        path, body, hub = urlsplit(self.path).path, self._body(), self.server
        request = f"{self.command} {path}"
        hub.requests.append(request)
        if status := hub.refuse(request):
            return self._answer({"error": "refused"}, status)
        if path.startswith("/storage/"):  # where large files go; the address is the permission
            sha = path.rsplit("/", 1)[1]
            if hashlib.sha256(body).hexdigest() != sha:
                return self._answer({"error": "other bytes than announced"}, 400)
            hub.store[sha] = body
            return self._answer({})
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._answer({"error": "Invalid username or password."}, 401)
        if path == "/api/whoami-v2":
            return self._answer({"name": "me", "type": "user"})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization'] or 'me'}/{asked['name']}"
            new = name not in hub.repositories
            hub.repositories.setdefault(name, {})
            return self._answer({"url": f"{hub.url}/{name}"}, 200 if new else 409)
        actions = "paths-info|preupload|commit|objects"
        match = re.match(rf"(?:/api/models)?/([^/]+/[^/]+?)(?:\.git/info/lfs)?/({actions})/", path)
        if match is None or match.group(1) not in hub.repositories:
            return self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        files = hub.repositories[match.group(1)]
        return getattr(self, "_" + match.group(2).replace("-", "_"))(files, body)

    def _paths_info(self, files: dict, body: bytes) -> None:
        found = []
        for path in parse_qs(body.decode())["paths"]:
            if path not in files:
                continue
            kind, value = files[path]
            content = self.server.store[value] if kind == "lfs" else value
            info = {"type": "file", "path": path, "size": len(content), "oid": git_name(content)}
            if kind == "lfs":
                info |= {"oid": "of the pointer", "lfs": {"oid": value, "size": len(content), "pointerSize": 134}}
            found.append(info)
        self._answer(found)

    def _preupload(self, files: dict, body: bytes) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._answer({"files": modes})

    def _objects(self, files: dict, body: bytes) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            if wanted["oid"] not in self.server.store:
                wanted["actions"] = {"upload": {"href": f"{self.server.url}/storage/{wanted['oid']}"}}
            objects.append(wanted)
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, files: dict, body: bytes) -> None:
        changed = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                self.server.commits.append(value)
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.server.store:
                    return self._answer({"error": "its content was not uploaded"}, 400)
                changed[value["path"]] = ("lfs", value["oid"])
            else:
                changed[value["path"]] = ("regular", base64.b64decode(value["content"]))
        files.update(changed)
        return self._answer(
            {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.url}/me/model/commit/0"}
        )
