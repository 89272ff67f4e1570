"""Starts the service: the address, the token, the temporary folder, and the end of all of them."""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from ..app.temporary import make_folder
from .app import create_app
from .engine import Engine
from .settings import ServiceSettings


TOKEN_VARIABLE = "EFFICIENTTAM_TOKEN"
LEAST_TOKEN = 16  # characters
SECONDS_FOR_STREAMS = 3  # to end after Ctrl-C


def choose_token(given: str | None, no_auth: bool, host: str) -> tuple[str | None, bool]:
    """Choose the token of the service: the given one, that of `EFFICIENTTAM_TOKEN`, or a random one.

    Returns:
        The token, `None` for no authentication, and whether it was generated.

    Raises:
        ValueError: if authentication is switched off for an address that other machines can reach, a token is given
            as well, or the token is too short or has other characters than letters, digits and punctuation.
    """
    if no_auth:
        if given is not None:
            raise ValueError("Give --token or --no-auth, not both.")
        if not is_loopback(host):
            raise ValueError(
                f"--no-auth is for this machine only, but other machines can reach {host}: leave --no-auth out, or "
                "use --host 127.0.0.1."
            )
        return None, False
    token = given or os.environ.get(TOKEN_VARIABLE)
    if not token:
        return secrets.token_urlsafe(24), True
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"A token has at least {LEAST_TOKEN} letters, digits or punctuation marks, and no spaces.")
    return token, False


def is_loopback(host: str) -> bool:
    """Whether an address is that of this machine for itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    engine: Engine,
    settings: ServiceSettings,
    host: str,
    port: int,
    token: str | None,
    extend: Callable[[FastAPI], list[str]] | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, and remove the temporary folder then.

    Args:
        port: 0 for any free port.
        token: see `create_app`.
        extend: adds routes to the application, and returns lines to print about them; in these, `ADDRESS` stands for
            the address of the service.

    Raises:
        OSError: if the address cannot be used.
        KeyboardInterrupt: at the end.
    """
    with _listen(host, port) as listening:
        root = make_folder("service")
        try:
            app = create_app(engine, settings, root, token)
            lines = extend(app) if extend is not None else []
            config = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # the addresses hold the secret names of sessions
                server_header=False,
                limit_concurrency=settings.max_connections,
                timeout_graceful_shutdown=SECONDS_FOR_STREAMS,
                ws="none",
            )
            _Server(config, _address(listening), lines).run(sockets=[listening])
        finally:
            shutil.rmtree(root, ignore_errors=True)


class _Server(uvicorn.Server):
    """A server that says when it can be reached."""

    def __init__(self, config: uvicorn.Config, address: str, lines: list[str]):
        super().__init__(config)
        self._address, self._lines = address, lines

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and print the address."""
        await super().startup(sockets)
        if self.started:
            print(f"Service: {self._address}/ (its page for programmers: {self._address}/docs)", flush=True)
            for line in self._lines:
                print(line.replace("ADDRESS", self._address), flush=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"The service cannot listen on {host}, port {port}: {error}. Choose another --port or --host."
        ) from error


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
