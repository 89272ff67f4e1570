"""The state of a visitor's video tab: prompts, masks, tracking, undo and results, without Gradio.

Coordinates are pixels of the clip's frames, and frames are numbered as in the clip. In the result files, both are those
of the video. Masks are stored in the visitor's folder, as `efficienttam track` writes them. All methods may be called
from several threads; during tracking, other methods run between frames.

`video_state` has the loaded video, `video_prompts` adds prompts and their undo, and this file adds tracking and files.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import engine
from model_store import shown_name
from uploads import UserError
from video_prompts import PromptedVideo

from efficienttam_hf.app.clips import write_clip_json, write_clip_results
from efficienttam_hf.app.plan import TrackingPlan, plan_tracking
from efficienttam_hf.prompts import Prompts


@dataclass(frozen=True)
class Results:
    """The paths of the files that a visitor can download."""

    overlay: Path
    masks_zip: Path
    masks_json: Path


class VideoWork(PromptedVideo):
    """A clip, the prompts on it and the masks so far.

    Args:
        folder: the visitor's folder for this work; `close` deletes it.
        settings: the settings of the demo.

    Attributes:
        clip: the part of the video that is used; `None` before `load`.
        prompts: the prompts by frame and object.
        current: the id of the selected object, to which clicks are added.
        corner: the first corner of a box, or `None`.
        found: what is known of objects that were found instead of clicked.
        cancelled: whether the last tracking was stopped before its end.
        from_link: checked prompts of the link with which the page was opened, until a video is chosen that they fit.
        model: the name of the model.
        model_is_new: whether the visitor has not yet been told that the model was changed.
    """

    def _reset(self) -> None:
        """Remove all prompts, steps and prepared tracking."""
        super()._reset()
        self._prepared: tuple[str, int | None] | None = None

    # -------------------------------------------------------------------------------------------------------- tracking

    def plan(self, direction: str, start: int | None = None) -> tuple[Prompts, TrackingPlan]:
        """Plan which objects are tracked on which frames.

        Args:
            direction: "forward", "backward" or "both".
            start: None to track every object from its prompts on; a frame to track the objects prompted there from it
                on.

        Returns:
            The prompts by frame and object, and the plan.

        Raises:
            UserError: if there is no prompt, or none on the frame `start`.
        """
        self._check_loaded()
        if not self.prompts:
            raise UserError("Click on an object first.")
        if start is None:
            return dict(self.prompts), plan_tracking({t: list(p) for t, p in self.prompts.items()}, direction)
        ids = list(self.prompts.get(start, {}))
        if not ids:
            raise UserError(
                "Correct an object on this frame first: click on a missing part, or on a part to leave out."
            )
        chosen = {t: {i: p for i, p in on_frame.items() if i in ids} for t, on_frame in self.prompts.items()}
        return chosen, TrackingPlan(dict.fromkeys(ids, start), dict.fromkeys(ids, start), direction)

    def prepare_tracking(self, direction: str, start: int | None = None) -> None:
        """Prepare a call of `track` that waits for its turn. From now on, `cancel` applies to it.

        Args:
            direction: "forward", "backward" or "both".
            start: see `plan`.

        Raises:
            UserError: if `track` would raise it.
        """
        with self._lock:
            self.check_not_tracking()
            self.plan(direction, start)
            self.corner = None
            self._prepared = (direction, start)
            self._stop.clear()

    def take_prepared(self) -> tuple[str, int | None] | None:
        """Return the arguments of the last `prepare_tracking` once, or `None` if it refused."""
        with self._lock:
            prepared, self._prepared = self._prepared, None
            return prepared

    def track(self, direction: str, start: int | None = None) -> Iterator[tuple[int, int, int]]:
        """Track the objects. It ends early after `cancel`: the masks so far are kept, and `cancelled` is true.

        Args:
            direction: "forward", "backward" or "both".
            start: see `plan`.

        Yields:
            For each frame that is done: its number in the clip, the number of frames done, and their total.

        Raises:
            UserError: if there is no prompt, or tracking is under way already.
        """
        with self._lock:
            self.check_not_tracking()
            prompts, plan = self.plan(direction, start)
            clip = self.clip
            total = plan.num_steps(len(self._frames))
            self.cancelled = self._stop.is_set()
            self._stop.clear()
            if self.cancelled:
                return
            self._complete = False
            self._tracking = True
            if start is None:
                # An earlier run may have reached frames that this one does not reach.
                self._masks.remove_all(but=self.prompts)
        done = 0
        try:
            with closing(engine.track(self.model, clip, prompts, plan)) as steps:  # to end the use of the model
                for found in steps:
                    done += 1
                    with self._lock:
                        if self._stop.is_set() or self._closed:
                            self.cancelled = True
                            return
                        if found.object_ids:
                            self._masks.keep(found.index, found.object_ids, found.logits, found.scores)
                    yield found.index, done, total
            self._complete = True
        finally:
            self._tracking = False
            self._stop.clear()

    def cancel(self) -> None:
        """Stop tracking after the current frame."""
        self._stop.set()

    # --------------------------------------------------------------------------------------------------------- results

    def write_results(self, markers: bool = False) -> Results | None:
        """Write the results so far, as `efficienttam track` does.

        Args:
            markers: whether clicks and boxes are drawn in the overlay.

        Returns:
            The paths of the files, or `None` if there are no masks yet.
        """
        with self._lock:
            if self.clip is None or not self._masks.numbers:
                return None
            clip, folder = self.clip, self._masks.folder
            write_clip_results(folder, clip, self.prompts, shown_name(self.model), self._complete, markers, self.found)
            archive = self._named("masks.zip")
            archive.unlink(missing_ok=True)  # a running download of the previous file continues
            with zipfile.ZipFile(archive, "w") as file:  # without compression, because PNGs are compressed already
                for png in sorted(folder.annotations.iterdir()):
                    file.write(png, png.relative_to(folder.path))
                file.write(folder.json, folder.json.name, zipfile.ZIP_DEFLATED)  # so that one file is enough to go on
            return Results(self._as_named(folder.overlay), archive, self._as_named(folder.json))

    def write_json(self) -> Path:
        """Write the JSON file of the results so far, and return its path.

        Raises:
            UserError: if there are no masks yet.
        """
        with self._lock:
            if self.clip is None or not self._masks.numbers:
                raise UserError("Track an object first.")
            name = shown_name(self.model)
            write_clip_json(self._masks.folder, self.clip, self.prompts, name, self._complete, self.found)
            return self._masks.folder.json

    def export_path(self, name: str) -> Path:
        """Return the path of one more file for download. The one before it is deleted, so that there is only one."""
        with self._lock:
            path = self._named(name)
            path = path.parent / "export" / path.name
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir(parents=True)
            return path

    def _named(self, name: str) -> Path:
        """Return the path of a file for download; its name begins with the name of the video."""
        path = self.folder / "files" / f"{self._check_loaded().name}_{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _as_named(self, path: Path) -> Path:
        """Make a link to a file under its name for download, or a copy if the file system has no links."""
        named = self._named(path.name)
        named.unlink(missing_ok=True)
        try:
            os.link(path, named)
        except OSError:  # the file system has no links
            shutil.copyfile(path, named)
        return named
