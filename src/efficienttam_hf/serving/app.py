"""The application: routes, the guard before them, and what begins and ends with the server."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from .. import __version__
from ..app.rates import Rate
from .engine import Engine
from .errors import Refusal
from .guard import Guard
from .schemas import Problem
from .sessions import Sessions
from .settings import ServiceSettings
from .worker import Worker


logger = logging.getLogger(__name__)

UPLOAD_PATHS = ("/v1/sessions", "/v1/segment")
SWEEP_SECONDS = 20.0
DESCRIPTION = """
Track objects through videos and segment images with [EfficientTAM](https://arxiv.org/abs/2411.18933).

1. `POST /v1/sessions` with a video or images makes a session.
2. `POST /v1/sessions/{id}/prompts` says what to track: points, a box or a mask for each object.
3. `POST /v1/sessions/{id}/propagate` tracks, and answers with a stream of events, one for each frame.
4. `GET /v1/sessions/{id}/results`, `/overlay` and `/masks` give the results; `DELETE /v1/sessions/{id}` deletes them.

Coordinates are in pixels of the original video or image, from the top left corner. Frames are counted from 0.
"""
PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The token is missing or wrong."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "The request is invalid."},
    429: {"model": Problem, "description": "Too many requests; `Retry-After` says when to go on."},
    503: {"model": Problem, "description": "There is no room at the moment; try again later."},
}


class Service:
    """What the routes share.

    Attributes:
        engine: the model.
        worker: the thread that runs it.
        sessions: all sessions.
        root: the temporary folder of the service.
    """

    def __init__(self, engine: Engine, settings: ServiceSettings, root: Path):
        self.engine, self.settings, self.root = engine, settings, root
        self.worker = Worker(settings.tracking_at_once, settings.max_waiting)
        self.sessions = Sessions(root / "sessions", settings)

    async def sweep_now_and_then(self) -> None:
        """Delete expired sessions, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sessions.sweep()
            except Exception:
                logger.exception("Expired sessions could not be deleted")

    async def close(self) -> None:
        """Cancel everything and delete the temporary folder."""
        await asyncio.get_running_loop().run_in_executor(None, self.worker.close)
        await asyncio.sleep(0)  # the ends of jobs arrive
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.sessions.close(), 10)
        shutil.rmtree(self.root, ignore_errors=True)


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    return cast(Service, request.app.state.service)


ServiceOf = Annotated[Service, Depends(service_of)]


def create_app(engine: Engine, settings: ServiceSettings, root: Path, token: str | None) -> FastAPI:
    """Make the application.

    Args:
        root: an empty folder for uploads and results, which is deleted at the end.
        token: the token that requests must carry; `None` serves programs on this machine only.
    """
    from . import image_routes, video_routes

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = app.state.service = Service(engine, settings, root)
        sweeping = asyncio.create_task(service.sweep_now_and_then())
        try:
            yield
        finally:
            sweeping.cancel()
            await service.close()

    app = FastAPI(
        title="EfficientTAM service",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=PROBLEMS,
        # The guard checks the token; this puts it on the page.
        dependencies=[Depends(HTTPBearer(auto_error=False, description="The token of the service."))],
    )
    app.include_router(video_routes.router)
    app.include_router(image_routes.router)
    rate = Rate(settings.requests_per_minute)

    def max_mb(path: str) -> int:
        # The parts of a form have headers, so a body may be a little larger than what is in it.
        return settings.max_upload_mb + 1 if path.rstrip("/") in UPLOAD_PATHS else settings.max_body_mb

    app.add_middleware(Guard, token=token, rate=rate, max_mb=max_mb)
    app.add_exception_handler(Refusal, _answer_refusal)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(Exception, _answer_failure)
    return app


async def _answer_refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    headers = None if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse({"detail": str(error)}, error.status, headers)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": str(error.detail)}, error.status_code, error.headers)


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """One line: where the first error is, and what it is. The input, which may be large, is not sent back."""
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": said_of(error.errors())}, 422)


async def _answer_failure(request: Request, error: Exception) -> JSONResponse:
    logger.error("A request failed", exc_info=error)
    return JSONResponse({"detail": "Something went wrong on the server."}, 500)


def said_of(errors: Any) -> str:
    """The first of pydantic's errors in one line, such as `objects[0].id: Input should be ...`."""
    first = errors[0]
    place = ""
    for part in first["loc"]:
        if part not in ("body", "query", "path"):
            place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)[:80]
    more = f" ({len(errors) - 1} more errors)" if len(errors) > 1 else ""
    return f"{place + ': ' if place else ''}{first['msg']}{more}"
