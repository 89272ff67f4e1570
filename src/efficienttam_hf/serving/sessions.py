"""Sessions: a video on disk, the prompts on it, and the masks so far. A session that nobody uses is deleted.

Everything of a session lies in a folder with a random name inside the service's temporary folder. Prompts are kept in
pixels of the clip's frames, which are the video's scaled down, and are given and answered in pixels of the video.
Methods are called on the event loop, unless they say otherwise.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..app.clips import Clip, write_clip_json, write_clip_overlay
from ..app.plan import TrackingPlan, plan_tracking
from ..app.results import TrackFolder
from ..prompts import Prompts, prompts_as_json, scaled_prompts
from .engine import Engine
from .errors import Busy, Conflict, NotFound, Refusal
from .schemas import FrameDone, FrameResult, ObjectSummary, SessionInfo, Size, object_result
from .settings import ServiceSettings
from .worker import Job, Worker


class VideoSession:
    """One video of a client.

    Args:
        folder: the session's own folder, which goes with `close`.
        clip: the video, which lies in that folder.
        name: the name of the video, with which the names of result files begin.

    Attributes:
        id: the secret name of the session.
        complete: whether tracking with the present prompts reached its end.
        last_used: the time of the last request, by `time.monotonic`.
    """

    def __init__(self, folder: Path, clip: Clip, settings: ServiceSettings, name: str):
        self.id = secrets.token_urlsafe(18)
        self.clip = clip = replace(clip, name=name)
        self.complete = False
        self._path = folder
        self._settings = settings
        self._prompts: Prompts = {}
        self._job: Job[FrameDone] | None = None
        self._files = asyncio.Lock()  # results are written by one request at a time
        self._written: set[str] = set()  # files that are up to date
        self._folder = TrackFolder(folder / "results", clip.name)
        self._folder.prepare(overwrite=True)
        self.touch()

    def touch(self) -> None:
        """Note a sign of life."""
        self.last_used = time.monotonic()

    @property
    def is_tracking(self) -> bool:
        """Whether tracking runs or waits for its turn."""
        return self._job is not None and not self._job.has_ended

    def info(self) -> SessionInfo:
        """The state of the session."""
        state: Literal["ready", "waiting", "tracking"] = "ready"
        if self._job is not None and self.is_tracking:
            state = "waiting" if self._job.position else "tracking"
        clip = self.clip
        given = prompts_as_json(scaled_prompts(self._prompts, clip.size, clip.original))
        left = 60 * self._settings.session_minutes - (time.monotonic() - self.last_used)
        return SessionInfo(
            id=self.id,
            state=state,
            name=clip.name,
            frames=clip.count,
            frames_in_video=clip.in_video,
            fps=clip.fps,
            prompt_size=Size(width=clip.original[1], height=clip.original[0]),
            size=Size(width=clip.size[1], height=clip.size[0]),
            note=clip.shortfall,
            objects=[ObjectSummary.model_validate(one) for one in given],
            tracked_frames=len(self._folder.frames),
            complete=self.complete,
            expires_in=max(0, round(left)),
        )

    # ---------------------------------------------------------------------------------------------------------- prompts

    def add_prompts(self, prompts: Prompts) -> None:
        """Add prompts in pixels of the video; those of the same object on the same frame are replaced.

        Raises:
            Refusal: if one is invalid, or there are too many. Then nothing is added.
            Conflict: while the session is tracked.
        """
        self._check_not_tracking()
        settings, size = self._settings, self.clip.original
        merged = {frame: dict(on_frame) for frame, on_frame in self._prompts.items()}
        for frame, on_frame in prompts.items():
            if frame >= self.clip.count:
                raise Refusal(f"Frame {frame} is not one of the frames 0 to {self.clip.count - 1} that are used.")
            for object_id, given in on_frame.items():
                where = f" for object {object_id} on frame {frame}"
                check_prompts(given, size, where, settings.max_points)
                merged.setdefault(frame, {})[object_id] = given.scaled(size, self.clip.size)
        ids = {object_id for on_frame in merged.values() for object_id in on_frame}
        if len(ids) > settings.max_objects:
            raise Refusal(f"Up to {settings.max_objects} objects are accepted in a session, got {len(ids)}.")
        count = sum(map(len, merged.values()))
        if count > settings.max_prompts:
            raise Refusal(f"Up to {settings.max_prompts} prompts are accepted in a session, got {count}.")
        self._prompts, self.complete = merged, False

    def remove_object(self, object_id: int) -> None:
        """Remove an object, its prompts and its masks.

        Raises:
            NotFound: if there is no such object.
            Conflict: while the session is tracked, or results are being written.
        """
        self._check_not_tracking()
        self._check_not_writing()
        if not any(object_id in on_frame for on_frame in self._prompts.values()):
            raise NotFound(f"There is no object {object_id} in this session.")
        left = {t: {i: p for i, p in on_frame.items() if i != object_id} for t, on_frame in self._prompts.items()}
        self._prompts = {t: on_frame for t, on_frame in left.items() if on_frame}
        for frame in self._folder.frames:
            self._folder.remove(frame, object_id)
        self._written.clear()

    def preview(self, engine: Engine, frames: list[int]) -> Iterator[FrameResult]:
        """Segment all prompted objects on some frames, on the worker's thread; one step for each frame."""
        from ..mask_io import box_and_area, encode_rle

        for frame in frames:
            found = engine.segment_frame(self.clip, frame, self._prompts[frame])
            entries = [
                {"id": i, "score": round(score, 4), **box_and_area(logits > 0), "segmentation": encode_rle(logits > 0)}
                for i, logits, score in zip(found.object_ids, found.logits, found.scores, strict=True)
            ]
            yield FrameResult(frame=frame, objects=[object_result(one) for one in entries])

    # --------------------------------------------------------------------------------------------------------- tracking

    def start_tracking(self, worker: Worker, engine: Engine, direction: str | None, masks: bool) -> Job[FrameDone]:
        """Track all objects from their prompts; the results so far are replaced.

        Args:
            direction: see `app.plan.plan_tracking`.
            masks: whether the values of the job carry masks.

        Raises:
            Refusal: if nothing is prompted.
            Conflict: if the session is being tracked, or results are being written.
            Busy: if too many requests wait.
        """
        self._check_not_tracking()
        self._check_not_writing()
        if not self._prompts:
            raise Refusal("Nothing is prompted: send prompts to this session first.")
        prompts = {frame: dict(on_frame) for frame, on_frame in self._prompts.items()}
        plan = plan_tracking({frame: list(on_frame) for frame, on_frame in prompts.items()}, direction)
        self._job = worker.submit(lambda: self._track(engine, prompts, plan, masks), is_long=True)
        return self._job

    def _track(self, engine: Engine, prompts: Prompts, plan: TrackingPlan, masks: bool) -> Iterator[FrameDone]:
        """Track, on the worker's thread. Finished frames are kept, whatever happens after them."""
        self.complete = False
        self._written.clear()
        for frame in self._folder.frames:
            for one in self._folder.record(frame)["objects"]:
                self._folder.remove(frame, one["id"])
        total = plan.num_steps(self.clip.count)
        with closing(engine.track(self.clip, prompts, plan)) as steps:  # type: ignore[type-var]  # it is a generator
            for done, found in enumerate(steps, start=1):
                objects: list[dict[str, Any]] = []
                if found.object_ids:
                    name = f"{found.index:05d}"
                    self._folder.add(found.index, name, found.object_ids, found.logits, found.scores)
                    record = self._folder.record(found.index)["objects"]
                    objects = [one for one in record if one["id"] in found.object_ids]
                if done == total:
                    self.complete = True
                results = [object_result(one, with_mask=masks) for one in objects]
                yield FrameDone(frame=found.index, objects=results, done=done, total=total)

    def _check_not_tracking(self) -> None:
        if self.is_tracking:
            raise Conflict("The session is being tracked: wait for the end, or close the stream to cancel.")

    def _check_not_writing(self) -> None:
        if self._files.locked():
            raise Conflict("Results of the session are being written: wait for them.")

    # ---------------------------------------------------------------------------------------------------------- results

    async def result(self, name: Literal["masks.json", "overlay.mp4", "masks.zip"], model_name: str) -> Path:
        """The path of a result file, which is written if it is not there yet.

        Raises:
            NotFound: if there are no masks.
            Conflict: while the session is tracked.
        """
        self._check_not_tracking()
        if not self._folder.frames:
            raise NotFound("There are no results yet: add prompts and track.")
        write: dict[str, Callable[[], None]] = {
            "masks.json": lambda: write_clip_json(self._folder, self.clip, self._prompts, model_name, self.complete),
            "overlay.mp4": lambda: write_clip_overlay(self._folder, self.clip, self._prompts),
            "masks.zip": self._write_zip,
        }
        async with self._files:
            self._check_not_tracking()
            if name not in self._written:
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, write[name]))
                self._written.add(name)
        return self._folder.path / name

    def _write_zip(self) -> None:
        with zipfile.ZipFile(self._folder.path / "masks.zip", "w") as file:  # PNGs are compressed already
            for png in sorted(self._folder.annotations.iterdir()):
                file.write(png, png.relative_to(self._folder.path))

    async def close(self) -> None:
        """Cancel tracking and delete everything."""
        if self._job is not None:
            self._job.cancel()
            await self._job.ended()
        async with self._files:
            self._folder.close()
            shutil.rmtree(self._path, ignore_errors=True)


class Sessions:
    """All sessions, by id.

    Args:
        root: the folder in which theirs are made.
    """

    def __init__(self, root: Path, settings: ServiceSettings):
        self._root, self._settings = root, settings
        self._sessions: dict[str, VideoSession] = {}
        self._coming = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[VideoSession]:
        return iter(list(self._sessions.values()))

    @asynccontextmanager
    async def new_folder(self) -> AsyncIterator[Path]:
        """A folder for a session to come, which keeps its place; removed if the block raises.

        Raises:
            Busy: if there are as many sessions as allowed.
        """
        if len(self._sessions) + self._coming >= self._settings.max_sessions:
            await self.sweep()
        if len(self._sessions) + self._coming >= self._settings.max_sessions:
            raise Busy(
                f"There are {self._settings.max_sessions} sessions, which is the limit. Delete one, or try again when "
                "one has expired."
            )
        folder = self._root / secrets.token_hex(12)
        folder.mkdir(parents=True)
        self._coming += 1
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self._coming -= 1

    def add(self, session: VideoSession) -> None:
        """Keep a session whose folder came from `new_folder`."""
        self._sessions[session.id] = session

    def get(self, session_id: str) -> VideoSession:
        """The session with an id.

        Raises:
            NotFound: if there is none (any more).
        """
        session = self._sessions.get(session_id)
        if session is None:
            raise NotFound("There is no such session; it may have expired or been deleted.")
        session.touch()
        return session

    async def remove(self, session_id: str) -> None:
        """Cancel and delete a session; raise `NotFound` if there is none."""
        session = self.get(session_id)
        del self._sessions[session_id]
        await session.close()

    async def sweep(self) -> None:
        """Delete the sessions that nobody used for the allowed time. A session that is tracked is in use."""
        now = time.monotonic()
        for session in self:
            if session.is_tracking:
                session.touch()
            elif now - session.last_used > 60 * self._settings.session_minutes:
                self._sessions.pop(session.id, None)
                await session.close()

    async def close(self) -> None:
        """Delete all sessions."""
        for session in self:
            self._sessions.pop(session.id, None)
            await session.close()


def check_prompts(given: Any, size: tuple[int, int], where: str, max_points: int) -> None:
    """Check the prompts of one object against the size of its frame and the limits.

    Raises:
        Refusal: if there are none, too many, or invalid ones.
    """
    if given.is_empty:
        raise Refusal(f"There is neither a point nor a box nor a mask{where}.")
    if len(given.points) > max_points:
        raise Refusal(f"Up to {max_points} points are accepted{where}, got {len(given.points)}.")
    try:
        given.check(size, where)
    except ValueError as error:
        raise Refusal(str(error)) from error
