"""Who is here, and what is theirs: a folder each, deleted when they leave or have been silent for long.

Gradio gives every open page a session hash. All that a visitor uploads and makes lies in one folder with a random name,
inside the folder that Gradio serves files from, so that no second copy is made for downloads.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from pathlib import Path

import engine
from image_work import ImageWork
from live_work import LiveWork
from settings import Settings
from uploads import UserError
from video_work import VideoWork


class Visitor:
    """What belongs to one open page.

    Attributes:
        model: that the visitor works with.
        wanted_model: the one that was chosen last, which may be on its way.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings
        self.seen()
        folder.mkdir(parents=True)
        self.video = VideoWork(folder / "video", settings)
        self.image = ImageWork(folder / "image", settings)
        self.live = LiveWork(settings)
        self.tracking_status = ""  # what was said last of tracking
        self.model = engine.store.first
        self.wanted_model: str | None = None
        self._calls: list[VideoWork] = []
        self._closed = False
        self._lock = threading.Lock()

    def new_call(self) -> VideoWork:
        """Room for one more call of the API. The oldest ones, as far as they are done, make room for it.

        Raises:
            UserError: if the visitor has left.
        """
        with self._lock:
            if self._closed:
                raise UserError("This session has ended.")
            done = [work for work in self._calls if work.clip is None]
            for old in done[: max(0, len(self._calls) + 1 - self.settings.results_per_visitor)]:
                old.close()
                self._calls.remove(old)
            self._calls.append(VideoWork(self.folder / secrets.token_hex(8), self.settings))
            return self._calls[-1]

    def take_model(self, name: str) -> None:
        """Work with another model from now on.

        Raises:
            UserError: if a video is being tracked.
        """
        self.video.change_model(name)  # first, as it may refuse
        self.image.change_model(name)
        self.live.change_model(name)
        self.model = name

    @property
    def is_idle(self) -> bool:
        """Whether nothing was loaded yet."""
        return self.video.clip is None and self.image.image is None and not self._calls and not self.live.objects

    def seen(self) -> None:
        """Note a sign of life."""
        self.last_seen = time.monotonic()

    def close(self) -> None:
        """Stop what is running and delete everything."""
        with self._lock:
            self._closed = True
        self.wanted_model = None
        works: list[VideoWork | ImageWork] = [self.video, self.image, *self._calls]
        for work in works:
            work.close()
        self.live.reset()
        shutil.rmtree(self.folder, ignore_errors=True)


class Visitors:
    """All visitors, by session hash.

    Args:
        root: the folder that theirs are made in.
    """

    def __init__(self, root: Path, settings: Settings):
        self.root = root
        self.settings = settings
        self._visitors: dict[str, Visitor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._visitors)

    def of(self, session: str | None) -> Visitor:
        """The visitor of a session; a new one where there is none (any more).

        Raises:
            UserError: if there are as many as allowed, and all are at work.
        """
        session = session or ""  # Gradio types it as optional; every page has one
        self.sweep()
        if session not in self._visitors and len(self._visitors) >= self.settings.max_visitors:
            self._make_room()
        with self._lock:
            if session not in self._visitors:
                self._visitors[session] = Visitor(self.root / secrets.token_hex(16), self.settings)
            visitor = self._visitors[session]
            visitor.seen()
            return visitor

    def known(self, session: str | None) -> Visitor | None:
        """The visitor of a session, if it is here: one that has left is not made anew."""
        return self._visitors.get(session or "")

    def _make_room(self) -> None:
        """Let go whoever has been silent for longest of those who have loaded nothing."""
        idle = [(visitor.last_seen, session) for session, visitor in list(self._visitors.items()) if visitor.is_idle]
        if not idle:
            raise UserError("There are too many visitors at the moment. Please try again later.")
        self.leave(min(idle)[1])

    def leave(self, session: str | None) -> None:
        """A page was closed."""
        with self._lock:
            visitor = self._visitors.pop(session or "", None)
        if visitor is not None:
            visitor.close()

    def sweep_now_and_then(self) -> None:
        """Sweep in the background, as long as the process lives."""

        def run() -> None:
            while True:
                time.sleep(60)
                self.sweep()

        threading.Thread(target=run, name="visitors", daemon=True).start()

    def sweep(self) -> None:
        """Let visitors go who were silent for longer than `settings.idle_minutes`."""
        limit = time.monotonic() - 60 * self.settings.idle_minutes
        for session in [s for s, visitor in list(self._visitors.items()) if visitor.last_seen < limit]:
            self.leave(session)
