"""Fetches the images and videos of tasks from one Label Studio, and from nowhere else.

The data of a task is an address that its author chose. It is only followed if it leads to the configured Label Studio,
under the paths from which it serves files; redirections are held to the same rule. The token goes to that host only.
"""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from ..safe_names import one_line
from ..serving.errors import Refusal, TooLarge


SERVED = ("/data/", "/storage-data/", "/tasks/", "/projects/")  # where Label Studio serves the files of tasks
SECONDS_OF_SILENCE, SECONDS_IN_ALL = 30.0, 600.0
SECONDS_OF_ACCESS = 240.0  # an access token is valid for five minutes
PORTS = {"http": 80, "https": 443}


class LabelStudioFiles:
    """The files of one Label Studio.

    Args:
        address: its address, such as `http://localhost:8080`.
        token: an access token of a user, of either kind that Label Studio has; `None` if files need none.

    Raises:
        ValueError: if the address is not of that form.
    """

    def __init__(self, address: str, token: str | None = None):
        try:
            parts = urlsplit(address)
            valid = parts.scheme in PORTS and bool(parts.hostname) and parts.username is None and not parts.query
            _origin(parts)
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(f"The address of Label Studio is one like http://localhost:8080, got {address!r}.")
        if token is not None and (not token.isascii() or not token.isprintable() or " " in token):
            raise ValueError("The token of Label Studio has characters that no token has.")
        self.address = address.rstrip("/")
        self._origin, self._base = _origin(parts), parts.path.rstrip("/")
        self._token = token
        self._access: tuple[str, float] | None = None
        self._lock = threading.Lock()
        # No proxy, no file: and no ftp: addresses; only what is listed here.
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirections(self),
        ):
            self._opener.add_handler(handler)

    def resolve(self, given: str) -> str:
        """The full address of a file of a task.

        Raises:
            Refusal: if it does not lead to the files of this Label Studio.
        """
        try:
            full = urljoin(f"{self.address}/", given.strip())
            parts = urlsplit(full)
            origin = _origin(parts)
        except ValueError:
            origin = None
        if origin != self._origin or parts.username is not None:
            raise Refusal(
                f"The file of the task is at {one_line(given)[:80]!r}, but only files that {self.address} serves are "
                "fetched: upload it there, or connect its folder or bucket as a storage of Label Studio."
            )
        path = unquote(unquote(parts.path))
        inside = path.removeprefix(self._base) if path.startswith(f"{self._base}/") else path
        if ".." in path.split("/") or "\\" in path or not inside.startswith(SERVED):
            raise Refusal(
                f"{one_line(given)[:80]!r} is not under a path from which Label Studio serves files of tasks."
            )
        return full

    def fetch(self, given: str, folder: Path, max_mb: int) -> Path:
        """Fetch a file of a task into a folder, and return its path.

        Raises:
            Refusal: if it is elsewhere, missing, or cannot be fetched.
            TooLarge: if it has more than `max_mb` megabytes.
        """
        address = self.resolve(given)
        suffix = re.search(r"\.[A-Za-z0-9]{1,5}$", urlsplit(address).path)
        path = folder / f"task{suffix[0].lower() if suffix else ''}"
        try:
            request = urllib.request.Request(address, headers=self._authorization())
            self._save(request, path, max_mb)
        except urllib.error.HTTPError as error:
            hint = " Does the token of --label-studio-token fit?" if error.code in (401, 403, 404) else ""
            raise Refusal(f"Label Studio answered {error.code} for the file of the task.{hint}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise Refusal(f"The file of the task cannot be fetched from {self.address}: {one_line(error)}") from error
        return path

    def _save(self, request: urllib.request.Request, path: Path, max_mb: int) -> None:
        deadline, left = time.monotonic() + SECONDS_IN_ALL, max_mb * 2**20
        with self._open(request) as answer, path.open("wb") as file:
            while chunk := answer.read(2**16):
                left -= len(chunk)
                if left < 0:
                    raise TooLarge(f"The file of the task has more than {max_mb} MB.")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it takes longer than {SECONDS_IN_ALL:.0f} s")
                file.write(chunk)

    def _open(self, request: urllib.request.Request) -> Any:
        answer = self._opener.open(request, timeout=SECONDS_OF_SILENCE)
        if answer is None:
            raise OSError("there was no answer")
        return answer

    def _authorization(self) -> dict[str, str]:
        """The header for the token: a legacy token as it is, a personal access token by way of an access token."""
        if self._token is None:
            return {}
        if self._token.count(".") != 2:  # it is no JSON Web Token
            return {"Authorization": f"Token {self._token}"}
        with self._lock:
            if self._access is None or self._access[1] < time.monotonic():
                body = json.dumps({"refresh": self._token}).encode()
                headers = {"Content-Type": "application/json"}
                request = urllib.request.Request(f"{self.address}/api/token/refresh", body, headers)
                with self._open(request) as answer:
                    access = json.loads(answer.read(2**16)).get("access")
                if not isinstance(access, str) or not access.isascii() or not access.isprintable():
                    raise OSError("it gave no access token")
                self._access = (access, time.monotonic() + SECONDS_OF_ACCESS)
            return {"Authorization": f"Bearer {self._access[0]}"}


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Redirections to files of the same Label Studio."""

    max_redirections = 3

    def __init__(self, files: LabelStudioFiles):
        self._files = files

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Follow a redirection, or raise `Refusal`."""
        return super().redirect_request(req, fp, code, msg, headers, self._files.resolve(newurl))


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address; raise `ValueError` for a port that is no number."""
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)
