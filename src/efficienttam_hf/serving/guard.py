"""The guard before every route: token, rate and size of the body are checked before anything of a body is read."""

from __future__ import annotations

import base64
import hmac
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ..app.rates import Rate
from .settings import MEGABYTE


LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/health", "/docs", "/redoc", "/openapi.json")  # they hold no data of anybody


class Guard:
    """ASGI middleware.

    Without a token, only requests to and from this machine are served: the names in `Host` and `Origin` must be those
    of the loopback interface, so that no web page can use the service through the user's browser.

    Args:
        token: the token that requests must carry as `Authorization: Bearer TOKEN`; `None` on loopback only.
        rate: the requests that one network address may make.
        max_mb: a function from a path to the megabytes that a body may have.
        open_paths: the paths that need no token.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        token: str | None,
        rate: Rate,
        max_mb: Callable[[str], int],
        open_paths: tuple[str, ...] = OPEN_PATHS,
    ) -> None:
        self._app, self._token, self._rate, self._max_mb, self._open = app, token, rate, max_mb, open_paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with the reason why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._max_mb(scope["path"]) * MEGABYTE
        answer = self._refusal(scope, headers, limit)
        if answer is not None:
            await answer(scope, receive, send)
            return
        await self._app(scope, _Limited(receive, limit), send)

    def _refusal(self, scope: Any, headers: Headers, limit: int) -> JSONResponse | None:
        seconds = self._rate.wait((scope.get("client") or (None,))[0])
        if seconds:
            wait = math.ceil(seconds)
            said = f"More than {self._rate.per_minute} requests a minute came from your address. Go on in {wait} s."
            return JSONResponse({"detail": said}, 429, {"Retry-After": str(wait)})
        if self._token is None:
            if not _is_local(headers):
                said = "This service has no token, so it only serves programs on its own machine."
                return JSONResponse({"detail": said}, 403)
        elif scope["path"] not in self._open and not self._has_token(headers):
            said = "Send the token that the service printed when it started: Authorization: Bearer TOKEN."
            return JSONResponse({"detail": said}, 401, {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:19]) > limit:
            return JSONResponse({"detail": _too_large(limit)}, 413, {"Connection": "close"})
        return None

    def _has_token(self, headers: Headers) -> bool:
        """Whether the token is there, as a bearer token or as the password of basic authentication."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        assert self._token is not None
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except ValueError:  # also UnicodeDecodeError
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self._token.encode())


def _is_local(headers: Headers) -> bool:
    names = [urlsplit(f"//{headers.get('host', '')}").hostname]
    if "origin" in headers:
        names.append(urlsplit(headers["origin"]).hostname)
    return all(name in LOOPBACK for name in names)


def _too_large(limit: int) -> str:
    return f"Requests of up to {limit // MEGABYTE} MB are accepted here."


class _Limited:
    """`receive` of a request whose body is counted, as not every client states its length."""

    def __init__(self, receive: Callable[[], Any], limit: int):
        self._receive, self._limit, self._left = receive, limit, limit

    async def __call__(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise HTTPException(413, _too_large(self._limit))
        return message
