"""The Hub, stood in for by a server on this machine: what `huggingface_hub` calls to upload to, and fetch from, models.

It keeps repositories and the contents of large files in memory. It can be told to refuse a request, to answer late, to
break a connection off, and to send other bytes than it states.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


COMMIT = "0123456789abcdef" * 2 + "01234567"  # of every repository
LARGE = (".safetensors", ".jpg")  # what the Hub keeps as large files


def git_name(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer(ThreadingHTTPServer):
    """The state of the Hub.

    Attributes:
        repositories: "owner/name" -> path -> ("lfs", sha256) or ("regular", content).
        revisions: those beside main: (repository, name or commit) -> commit and large files, path -> sha256.
        store: contents of large files by their sha256, also of those that no commit names yet.
        requests: "METHOD /path" of everything that was asked, in order.
        commits: headers of commits (summary, description), in order.
        refuse: given "METHOD /path", the status to answer with, or None to serve it.
        private: repositories that are not shown without the token.
        delay: seconds before a request for a file is answered.
        break_offs: how many bytes of a large file are sent before the connection breaks, for each of the next requests.
        damaged: whether large files arrive with a bit flipped.
        resumed: where requests for a part of a large file began.
        pace: seconds between pieces of a large file of 64 KiB.
    """

    daemon_threads = True
    token = "hf_right"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage_url = f"http://localhost:{self.server_port}/storage"  # another host, as the Hub's is
        self.repositories: dict[str, dict[str, tuple[str, bytes | str]]] = {}
        self.revisions: dict[tuple[str, str], tuple[str, dict[str, str]]] = {}
        self.store: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.commits: list[dict] = []
        self.refuse: Callable[[str], int | None] = lambda request: None
        self.private: set[str] = set()
        self.delay, self.pace, self.damaged = 0.0, 0.0, False
        self.break_offs: list[int] = []
        self.resumed: list[int] = []

    def count(self, pattern: str) -> int:
        """How many requests fit a pattern."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    def add(self, repository: str, path: str, content: bytes) -> str:
        """Put a large file into a repository; its SHA-256."""
        sha = hashlib.sha256(content).hexdigest()
        self.store[sha] = content
        self.repositories.setdefault(repository, {})[path] = ("lfs", sha)
        return sha

    def add_revision(self, repository: str, name: str, commit: str, path: str, content: bytes) -> None:
        """A revision of a repository that has one large file."""
        sha = hashlib.sha256(content).hexdigest()
        self.store[sha] = content
        for key in (name, commit):
            self.revisions[repository, key] = (commit, {path: sha})

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

    do_POST = do_PUT = do_HEAD = do_GET

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
        if self.command != "HEAD":
            self.wfile.write(body)

    def _serve(self) -> None:
        path, body, hub = urlsplit(self.path).path, self._body(), self.server
        request = f"{self.command} {path}"
        hub.requests.append(request)
        if status := hub.refuse(request):
            return self._answer({"error": "refused"}, status)
        if path.startswith("/storage/"):  # where large files go; the address is the permission
            sha = path.rsplit("/", 1)[1]
            if self.command == "GET":
                return self._send_large(hub.store[sha]) if sha in hub.store else self._answer({}, 404)
            if hashlib.sha256(body).hexdigest() != sha:
                return self._answer({"error": "other bytes than announced"}, 400)
            hub.store[sha] = body
            return self._answer({})
        known = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(match.group(1), match.group(2), match.group(3), known)
        if not known:
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

    def _resolve(self, repository: str, revision: str, path: str, known: bool) -> None:
        """A file of a repository: large ones elsewhere, with what is stated of them here."""
        hub = self.server
        time.sleep(hub.delay)
        if repository not in hub.repositories or (repository in hub.private and not known):
            status = 404 if known else 401  # as the Hub does: it does not tell whether there is one
            return self._answer({"error": "Repository not found"}, status, X_Error_Code="RepoNotFound")
        hash_of, files = COMMIT, hub.repositories[repository]
        if (repository, revision) in hub.revisions:
            hash_of, shas = hub.revisions[repository, revision]
            files = {name: ("lfs", sha) for name, sha in shas.items()}
        elif revision not in ("main", COMMIT):
            return self._answer({"error": "Revision not found"}, 404, X_Error_Code="RevisionNotFound")
        commit = {"X_Repo_Commit": hash_of}
        if path not in files:
            return self._answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", **commit)
        kind, value = files[path]
        if kind == "lfs":
            size = str(len(hub.store[value]))
            stated = {"X_Linked_Etag": f'"{value}"', "X_Linked_Size": size, "Location": f"{hub.storage_url}/{value}"}
            return self._answer({}, 302, **stated, **commit)
        self.send_response(200)
        for name, header in {"X-Repo-Commit": COMMIT, "ETag": f'"{git_name(value)}"'}.items():
            self.send_header(name, header)
        self.send_header("Content-Length", str(len(value)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(value)
        return None

    def _send_large(self, content: bytes) -> None:
        """A large file, from where `Range` says, as far as the connection is to hold."""
        hub = self.server
        if hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start, total = int(match.group(1)) if match else 0, len(content)
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(total - start))
        if match:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            hub.resumed.append(start)
        self.end_headers()
        end = start + hub.break_offs.pop(0) if hub.break_offs else total
        for begin in range(start, end, 2**16):
            self.wfile.write(content[begin : min(begin + 2**16, end)])
            time.sleep(hub.pace)
        if end < total:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

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
