"""The routes of the service itself and of video sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path as FilePath
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from .. import __version__
from ..app.clips import clip_of_file, file_name
from ..frame_names import IMAGE_SUFFIXES
from ..safe_names import one_line
from .app import Service, ServiceOf
from .errors import Refusal
from .schemas import (
    End,
    Event,
    Failed,
    FrameDone,
    Health,
    Limits,
    Problem,
    PromptsAnswer,
    PromptsRequest,
    PropagateRequest,
    ServiceInfo,
    SessionInfo,
    Waiting,
)
from .sessions import VideoSession
from .uploads import UploadedFile, form_schema, receive_upload
from .worker import Job


logger = logging.getLogger(__name__)
router = APIRouter()

SECONDS_BETWEEN_SIGNS = 2.0  # while no frame is finished, so that proxies and clients know that the stream lives
LINES, SERVER_SENT = "application/x-ndjson", "text/event-stream"
NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is no such session, object or result."}
}
CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "The session is being tracked, or results are being written."}
}
SessionId = Annotated[str, Path(description="Id of the session.", max_length=100)]


@router.get("/health", tags=["service"])
async def health() -> Health:
    """Whether the service runs. Needs no token."""
    return Health()


@router.get("/v1/info", tags=["service"])
async def info(service: ServiceOf) -> ServiceInfo:
    """The model and the limits of this service."""
    limits = {name: getattr(service.settings, name) for name in Limits.model_fields}
    return ServiceInfo(
        version=__version__,
        model=service.engine.name,
        device=service.engine.device,
        sessions=len(service.sessions),
        limits=Limits(**limits),
    )


# ------------------------------------------------------------------------------------------------------------- sessions

FILE_FORM = form_schema(
    "file",
    {
        "file": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "A video file, or the images of a video in their order, each as one `file`.",
        }
    },
)


@router.post("/v1/sessions", status_code=201, tags=["video"], openapi_extra=FILE_FORM)
async def create_session(request: Request, service: ServiceOf) -> SessionInfo:
    """Make a session from an uploaded video, or from images that are its frames."""
    settings = service.settings
    async with service.sessions.new_folder() as folder:
        files = folder / "upload"
        files.mkdir()
        upload = await receive_upload(request, files, "file", (), settings.max_frames, settings.max_upload_mb)
        session = await asyncio.to_thread(_open_session, service, folder, upload.files)
        service.sessions.add(session)
    return session.info()


def _open_session(service: Service, folder: FilePath, files: list[UploadedFile]) -> VideoSession:
    """Look at uploaded files and make the session."""
    if len(files) > 1:
        for file in files:
            if file.path.suffix not in IMAGE_SUFFIXES:
                raise Refusal(
                    f"Several files must be images ({', '.join(IMAGE_SUFFIXES)}), got {one_line(file.name)[:80]!r}; a "
                    "video is one file."
                )
    video = files[0].path if len(files) == 1 else files[0].path.parent
    try:
        clip = clip_of_file(video, service.settings.clip)
    except ValueError as error:
        raise Refusal(str(error)) from error
    name = file_name(FilePath(FilePath(files[0].name.replace("\\", "/")).name or "video"))
    return VideoSession(folder, clip, service.settings, name)


@router.get("/v1/sessions", tags=["video"])
async def list_sessions(service: ServiceOf) -> list[SessionInfo]:
    """All sessions of this service."""
    return [session.info() for session in service.sessions]


@router.get("/v1/sessions/{session_id}", tags=["video"], responses=NOT_FOUND)
async def get_session(session_id: SessionId, service: ServiceOf) -> SessionInfo:
    """The state of a session."""
    return service.sessions.get(session_id).info()


@router.delete("/v1/sessions/{session_id}", status_code=204, tags=["video"], responses=NOT_FOUND)
async def delete_session(session_id: SessionId, service: ServiceOf) -> Response:
    """Cancel what runs in a session, and delete the video and all results."""
    await service.sessions.remove(session_id)
    return Response(status_code=204)


# -------------------------------------------------------------------------------------------------------------- prompts


@router.post("/v1/sessions/{session_id}/prompts", tags=["video"], responses={**NOT_FOUND, **CONFLICT})
async def add_prompts(session_id: SessionId, given: PromptsRequest, service: ServiceOf) -> PromptsAnswer:
    """Add prompts. Those of the same object on the same frame are replaced. If one is invalid, none is added."""
    session = service.sessions.get(session_id)
    prompts = given.to_prompts()
    session.add_prompts(prompts)
    preview = []
    if given.preview:
        job = service.worker.submit(lambda: session.preview(service.engine, sorted(prompts)))
        preview = [result async for result in job.values() if result is not None]
    return PromptsAnswer(session=session.info(), preview=preview)


@router.delete("/v1/sessions/{session_id}/objects/{object_id}", tags=["video"], responses={**NOT_FOUND, **CONFLICT})
async def remove_object(session_id: SessionId, object_id: int, service: ServiceOf) -> SessionInfo:
    """Remove an object, its prompts and its masks."""
    session = service.sessions.get(session_id)
    session.remove_object(object_id)
    return session.info()


# ------------------------------------------------------------------------------------------------------------- tracking


class EventStream(StreamingResponse):
    """The events of a job. When the client goes, the job is cancelled, even before the first event was sent."""

    def __init__(self, job: Job[FrameDone], session: VideoSession, media_type: str):
        self._job = job
        super().__init__(
            _encoded(job, session, media_type),
            media_type=media_type,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send events until the end, or until the client has gone."""

        async def stream() -> None:
            await self.stream_response(send)
            group.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(stream)
                await self.listen_for_disconnect(receive)
                group.cancel_scope.cancel()
        finally:
            self._job.cancel()


async def _encoded(job: Job[FrameDone], session: VideoSession, media_type: str) -> AsyncIterator[bytes]:
    async for event in _events(job, session):
        text = event.model_dump_json(exclude_none=True)
        yield (f"event: {event.event}\ndata: {text}\n\n" if media_type == SERVER_SENT else f"{text}\n").encode()


async def _events(job: Job[FrameDone], session: VideoSession) -> AsyncIterator[Waiting | FrameDone | End | Failed]:
    try:
        async for value in job.values(SECONDS_BETWEEN_SIGNS):
            yield Waiting(position=job.position) if value is None else value
    except (ValueError, OSError) as error:
        yield Failed(detail=one_line(str(error)))
    except Exception:
        logger.exception("Tracking failed")
        yield Failed(detail="Something went wrong on the server.")
    else:
        session.touch()
        yield End(complete=session.complete, tracked_frames=session.info().tracked_frames)


@router.post(
    "/v1/sessions/{session_id}/propagate",
    tags=["video"],
    response_class=StreamingResponse,
    responses={
        **NOT_FOUND,
        **CONFLICT,
        200: {
            "description": "A stream of events: one JSON object a line, or server-sent events if the request accepts "
            "`text/event-stream`. It ends with an event `end` or `error`. If the client closes it, tracking is "
            "cancelled, and finished frames are kept.",
            "model": Event,
        },
    },
)
async def propagate(
    session_id: SessionId, request: Request, service: ServiceOf, given: PropagateRequest | None = None
) -> Response:
    """Track all objects from their prompts. The results so far are replaced."""
    given = given or PropagateRequest()
    session = service.sessions.get(session_id)
    job = session.start_tracking(service.worker, service.engine, given.direction, given.masks)
    wanted = SERVER_SENT if SERVER_SENT in request.headers.get("accept", "") else LINES
    return EventStream(job, session, wanted)


# -------------------------------------------------------------------------------------------------------------- results


@router.get(
    "/v1/sessions/{session_id}/results",
    tags=["results"],
    response_class=FileResponse,
    responses={**NOT_FOUND, **CONFLICT, 200: {"content": {"application/json": {}}}},
)
async def results(session_id: SessionId, service: ServiceOf) -> FileResponse:
    """All masks as JSON with COCO run lengths, in the format of `efficienttam track` (`masks.json`)."""
    return await _file(service, session_id, "masks.json", "application/json")


@router.get(
    "/v1/sessions/{session_id}/overlay",
    tags=["results"],
    response_class=FileResponse,
    responses={**NOT_FOUND, **CONFLICT, 200: {"content": {"video/mp4": {}}}},
)
async def overlay(session_id: SessionId, service: ServiceOf) -> FileResponse:
    """The video with the masks drawn on it, with its sound, as MP4. It is drawn when it is asked for first."""
    return await _file(service, session_id, "overlay.mp4", "video/mp4")


@router.get(
    "/v1/sessions/{session_id}/masks",
    tags=["results"],
    response_class=FileResponse,
    responses={**NOT_FOUND, **CONFLICT, 200: {"content": {"application/zip": {}}}},
)
async def masks(session_id: SessionId, service: ServiceOf) -> FileResponse:
    """All masks as indexed PNGs in a ZIP file. In a PNG, a pixel belongs to one object."""
    return await _file(service, session_id, "masks.zip", "application/zip")


async def _file(service: Service, session_id: str, name: Any, media_type: str) -> FileResponse:
    session = service.sessions.get(session_id)
    path = await session.result(name, service.engine.name)
    session.touch()
    return FileResponse(path, media_type=media_type, filename=f"{session.clip.name}_{name}")
