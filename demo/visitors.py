"""The visitors and their files: each has a folder, which is deleted when they leave or are inactive for long.

Gradio gives every open page a session hash. All files of a visitor are in one folder with a random name. It is inside
the folder from which Gradio serves files, so that downloads need no second copy.
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
    """The state of one open page.

    Args:
        folder: the visitor's folder, which must not exist yet.
        settings: the settings of the demo.

    Attributes:
        model: the name of the model that the visitor uses.
        wanted_model: the model that was chosen last, which may still be loading; `None` if there is none.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings
        self.seen()
        folder.mkdir(parents=True)
        self.video = VideoWork(folder / "video", settings)
        self.image = ImageWork(folder / "image", settings)
        self.live = LiveWork(settings)
        self.tracking_status = ""  # the last message about tracking
        self.model = engine.store.first
        self.wanted_model: str | None = None
        self._calls: list[VideoWork] = []
        self._closed = False
        self._lock = threading.Lock()

    def new_call(self) -> VideoWork:
        """Make the state of one more call of the API. The files of the oldest finished calls are deleted.

        Raises:
            UserError: if the visitor has left.
        """
        with self._lock:
            if self._closed:
                raise UserError("This session has ended: load the page again, or make a new connection.")
            done = [work for work in self._calls if work.clip is None]
            for old in done[: max(0, len(self._calls) + 1 - self.settings.results_per_visitor)]:
                old.close()
                self._calls.remove(old)
            self._calls.append(VideoWork(self.folder / secrets.token_hex(8), self.settings))
            return self._calls[-1]

    def take_model(self, name: str) -> None:
        """Use another model from now on.

        Args:
            name: the name of the model.

        Raises:
            UserError: if a video is being tracked.
        """
        self.video.change_model(name)  # first, because it may raise an error
        self.image.change_model(name)
        self.live.change_model(name)
        self.model = name

    @property
    def is_idle(self) -> bool:
        """Whether the visitor has loaded nothing yet."""
        return self.video.clip is None and self.image.image is None and not self._calls and not self.live.objects

    def seen(self) -> None:
        """Note that the visitor is active."""
        self.last_seen = time.monotonic()

    def close(self) -> None:
        """Stop what is running and delete all files."""
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
        root: the folder of the visitors' folders.
        settings: the settings of the demo.
    """

    def __init__(self, root: Path, settings: Settings):
        self.root = root
        self.settings = settings
        self._visitors: dict[str, Visitor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._visitors)

    def of(self, session: str | None) -> Visitor:
        """Return the visitor of a session, and make a new one if there is none.

        Args:
            session: the session hash.

        Raises:
            UserError: if there are as many visitors as allowed, and none of them is idle.
        """
        session = session or ""  # optional in Gradio's types; every page has one
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
        """Return the visitor of a session, or None if there is none; no new visitor is made."""
        return self._visitors.get(session or "")

    def _make_room(self) -> None:
        """Remove the visitor that has been inactive for longest among those who have loaded nothing."""
        idle = [(visitor.last_seen, session) for session, visitor in list(self._visitors.items()) if visitor.is_idle]
        if not idle:
            raise UserError("There are too many visitors at the moment. Please try again later.")
        self.leave(min(idle)[1])

    def leave(self, session: str | None) -> None:
        """Remove a visitor whose page was closed."""
        with self._lock:
            visitor = self._visitors.pop(session or "", None)
        if visitor is not None:
            visitor.close()

    def sweep_now_and_then(self) -> None:
        """Call `sweep` every minute in a background thread."""

        def run() -> None:
            while True:
                time.sleep(60)
                self.sweep()

        threading.Thread(target=run, name="visitors", daemon=True).start()

    def sweep(self) -> None:
        """Remove visitors who were inactive for more than `settings.idle_minutes`."""
        limit = time.monotonic() - 60 * self.settings.idle_minutes
        for session in [s for s, visitor in list(self._visitors.items()) if visitor.last_seen < limit]:
            self.leave(session)
