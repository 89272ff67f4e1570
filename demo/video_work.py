"""The state of a visitor's video tab: prompts, masks, tracking, undo and results, without Gradio.

Coordinates are pixels of the clip's frames, and frames are numbered as in the clip. In the result files, both are those
of the video. Masks are stored in the visitor's folder, as `efficienttam track` writes them. All methods may be called
from several threads; during tracking, other methods run between frames.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import engine
import numpy as np
from clicks import Point, inside, next_object_id, with_click
from found_objects import FoundObjects
from model_store import shown_name
from settings import Settings
from timeline import Row, seen_on, timeline_rows
from uploads import Upload, UserError
from video_clip import Clip, ClipFrames, clip_of_file

from efficienttam_hf.app.clips import write_clip_json, write_clip_results
from efficienttam_hf.app.frames import limited_size
from efficienttam_hf.app.plan import TrackingPlan, plan_tracking
from efficienttam_hf.app.results import TrackFolder
from efficienttam_hf.discovery import DetectionError, NothingFoundError
from efficienttam_hf.mask_io import decode_rle
from efficienttam_hf.prompts import ObjectPrompts, Prompts, scaled_prompts
from efficienttam_hf.visualization import overlay_masks


@dataclass
class _Step:
    """The prompts and the result of an object on a frame before a click, or before a search found the object.

    Attributes:
        selected: the object that was selected.
        search: the number of the search, whose steps are undone together; 0 for a click.
    """

    frame: int
    object_id: int
    prompts: ObjectPrompts | None
    result: dict[str, Any] | None
    selected: int
    search: int = 0


@dataclass(frozen=True)
class Results:
    """The paths of the files that a visitor can download."""

    overlay: Path
    masks_zip: Path
    masks_json: Path


class VideoWork:
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
        model: the name of the model.
        model_is_new: whether the visitor has not yet been told that the model was changed.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings
        self.model = engine.store.first
        self.model_is_new = False
        self.clip: Clip | None = None
        self._open_frames: ClipFrames | None = None
        self._upload: Upload | None = None
        self._lock = threading.RLock()
        self._closed = False
        self._stop = threading.Event()
        self._tracking = False
        self._open = ExitStack()
        self._open_folder: TrackFolder | None = None
        self._reset()

    def _reset(self) -> None:
        """Remove all prompts and steps."""
        self.prompts: Prompts = {}
        self.current = 1
        self.corner: Point | None = None
        self.found = FoundObjects()
        self._steps: list[_Step] = []
        self._searches = 0
        self._prepared: tuple[str, int | None] | None = None
        self._complete = False
        self.cancelled = False

    # ------------------------------------------------------------------------------------------------------ the model

    def change_model(self, name: str) -> None:
        """Use another model from now on. Clicks are kept; masks, and corrections of tracked masks, are removed.

        Args:
            name: the name of the model.

        Raises:
            UserError: if tracking is under way.
        """
        with self._lock:
            self.check_not_tracking()
            if name == self.model:
                return
            self.model, self.model_is_new = name, self.clip is not None
            self.corner = None
            if self.clip is None:
                return
            stays = {(t, i): p for t, on_frame in self.prompts.items() for i, p in on_frame.items() if p.mask is None}
            self.prompts = {}
            for (t, i), given in stays.items():
                self.prompts.setdefault(t, {})[i] = given
            self._forget_unprompted()
            self._steps = [replace(one, result=None) for one in self._steps if (one.frame, one.object_id) in stays]
            for number in list(self._folder.frames):
                for one in list(self._folder.record(number)["objects"]):
                    self._folder.remove(number, one["id"])
            self._complete = False

    # ------------------------------------------------------------------------------------------------------- the clip

    def load(self, path: Path, max_side: int, stride: int) -> Clip:
        """Load an uploaded file in place of the current video.

        Args:
            path: the path of the uploaded file.
            max_side: the longer side of the results in pixels; 0 is that of the video, within the settings' limit.
            stride: take every n-th frame; 1 takes all.

        Raises:
            UserError: if the file is not a video, or larger than allowed. It is deleted, and the current video is kept.
        """
        self.check_not_tracking()
        upload = Upload(path, self.folder / f"upload-{secrets.token_hex(4)}", self.settings)
        try:
            clip = clip_of_file(upload.path, self.settings, max_side, stride)
        except UserError:
            upload.delete()
            raise
        with self._lock:
            if self._closed:  # the visitor left meanwhile
                upload.delete()
                raise UserError("This page was closed. Load it again.")
            self._let_go()
            self._upload, self.clip = upload, clip
            self._open_frames = self._open.enter_context(clip.open(read_ahead=0))
            self._open_folder = TrackFolder(self.folder / "results", clip.name)
            self._folder.prepare(overwrite=True)
            self._reset()
        return clip

    def _let_go(self) -> None:
        """Close the video and delete all results."""
        self.release()
        for name in ("results", "files"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def release(self) -> None:
        """Close the video and delete the upload. Written results are kept."""
        with self._lock:
            self._open.close()
            self.clip = self._open_frames = None
            if self._open_folder is not None:
                self._open_folder.close()
            if self._upload is not None:
                self._upload.delete()
                self._upload = None

    def close(self) -> None:
        """Stop what is running and delete all files."""
        self._stop.set()
        with self._lock:
            self._closed = True
            self._let_go()
            shutil.rmtree(self.folder, ignore_errors=True)

    def check_not_tracking(self) -> None:
        """Raise `UserError` while tracking is under way."""
        if self.tracking:
            raise UserError("Tracking is under way: wait until it ends, or press Cancel first.")

    @property
    def tracking(self) -> bool:
        """Whether tracking is under way."""
        return self._tracking

    def _check_loaded(self) -> Clip:
        """Return the clip, or raise `UserError` if there is none."""
        if self.clip is None:
            raise UserError("Choose a video first.")
        return self.clip

    @property
    def _frames(self) -> ClipFrames:
        """The open frames; raises `UserError` if there is no video."""
        if self._open_frames is None:
            raise UserError("Choose a video first.")
        return self._open_frames

    @property
    def _folder(self) -> TrackFolder:
        """The folder of the masks; raises `UserError` if there is no video."""
        if self._open_folder is None:
            raise UserError("Choose a video first.")
        return self._open_folder

    # ----------------------------------------------------------------------------------------------------- the picture

    def picture(self, frame: int, opacity: float = 0.5) -> np.ndarray:
        """Draw a frame with its masks and prompts.

        Args:
            frame: the frame of the clip.
            opacity: the opacity of masks, from 0 to 1.

        Returns:
            uint8 (height, width, 3) RGB.

        Raises:
            UserError: if there is no video, or it ends before this frame.
        """
        with self._lock:
            clip = self._check_loaded()
            image = self._frame(frame)
            number = clip.number(frame)
            masks = self.masks_on(number)
            corner = [ObjectPrompts([self.corner], [1])] if self.corner else []
            here = [*self.prompts.get(frame, {}).values(), *corner]
            several = len(self.objects) > 1 or bool(self.found.labels)
            labels: bool | dict[int, str] = self.found.drawn(masks) if several else False
        return overlay_masks(image, masks, opacity, labels=labels, prompts=here)

    def _frame(self, frame: int) -> np.ndarray:
        """Return a frame, or raise `UserError` if the video ends before it."""
        try:
            return self._frames[frame]
        except IndexError as error:
            raise UserError(f"The video is damaged: it ends before frame {frame}.") from error

    @property
    def objects(self) -> list[int]:
        """The ids of all prompted objects and of the selected one, which may be new."""
        return sorted({*self._prompted, self.current})

    def scores(self) -> list[tuple[int, int, float]]:
        """Return (frame number in the video, object id, probability of presence) of each mask."""
        with self._lock:
            if self.clip is None:
                return []
            return [(t, o["id"], o["score"]) for t in self._folder.frames for o in self._folder.record(t)["objects"]]

    def frame_with_masks(self, frame: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Return a frame of the clip, uint8 (height, width, 3) RGB, and its masks by object id.

        Raises:
            UserError: if there is no video, or it ends before this frame.
        """
        with self._lock:
            clip = self._check_loaded()
            return self._frame(frame), self.masks_on(clip.number(frame))

    def masks_on(self, number: int) -> dict[int, np.ndarray]:
        """Return the masks, bool (height, width), by object id on a frame, by its number in the video."""
        with self._lock:
            return self._folder.masks(number) if number in self._folder.frames else {}

    @property
    def full_size(self) -> tuple[int, int]:
        """(height, width) of results that are as large as the video, within the settings' limit."""
        return limited_size(self._check_loaded().original, self.settings.max_result_side)

    @property
    def tracked_frames(self) -> list[int]:
        """The numbers in the video of the frames that have masks, ascending."""
        with self._lock:
            return [] if self.clip is None else self._folder.frames

    def timeline(self) -> dict[int, Row]:
        """Return the rows of the timeline, by object id and in frames of the clip."""
        with self._lock:
            if self.clip is None:
                return {}
            clip = self.clip
            seen = [(clip.index(record["frame"]), seen_on(record)) for record in self._folder.records()]
            return timeline_rows(seen, self.prompts)

    # --------------------------------------------------------------------------------------------------------- prompts

    def click(self, frame: int, kind: str, point: Point) -> None:
        """Add a click to the prompts of the selected object and segment the object on this frame.

        The first click on a tracked frame corrects the mask there.

        Args:
            frame: the frame of the clip.
            kind: one of `clicks.KINDS`.
            point: (x, y) in pixels of the clip's frames.

        Raises:
            UserError: if there is no video, the click cannot be used, or tracking is under way.
        """
        with self._lock:
            clip = self._check_loaded()
            self.check_not_tracking()
            object_id = self.current
            result = self._result(frame, object_id)
            before = self.prompts.get(frame, {}).get(object_id)
            most = self.settings.max_prompts
            if before is None and sum(map(len, self.prompts.values())) >= most:
                raise UserError(f"There can be at most {most} prompts in a video. Undo some to make others.")
            given = before or ObjectPrompts(mask=_shown(result))
            point = inside(point, clip.size)
            given, self.corner = with_click(given, kind, point, self.corner, self.settings.max_points)
            if self.corner is not None:
                return
            image = self._frame(frame)
            model = self.model
        found = engine.segment_frame(model, image, object_id, given)  # without the lock, for other methods
        with self._lock:
            if self.clip is not clip:
                return
            if self.model != model:
                raise UserError("The model was changed while this click was answered. Click again.")
            self.check_not_tracking()  # tracking may have begun meanwhile
            self._steps.append(_Step(frame, object_id, before, result, object_id))
            self.prompts.setdefault(frame, {})[object_id] = given
            self._keep(frame, [object_id], found.logits, found.scores)

    def find(self, frame: int, texts: list[str] | None) -> list[int]:
        """Find objects on a frame, and add them to the objects of the video. Objects with a mask are not found again.

        Args:
            frame: the frame of the clip.
            texts: what to look for; `None` stands for everything.

        Returns:
            The ids of the new objects, the best first.

        Raises:
            UserError: if there is no video, nothing is found, texts cannot be looked for, there are as many objects as
                allowed, or tracking is under way.
        """
        with self._lock:
            clip = self._check_loaded()
            self.check_not_tracking()
            self.corner = None
            next_object_id(self._prompted, self.settings.max_objects)  # raises an error if there is no room
            image = self._frame(frame)
            known = {i: mask for i, mask in self.masks_on(clip.number(frame)).items() if mask.any()}
            most = self.settings.max_objects - len(set(self._prompted) - set(known))
            model = self.model
        try:
            done, prompts, found = engine.find_objects(
                model, image, texts, known, most
            )  # without the lock, as in `click`
        except NothingFoundError as error:
            what = f"looked for {error.looks_for}" if texts else "nothing that is not marked already"
            raise UserError(
                f"No new object was found on this frame ({what}). Try another frame, or click on an object."
            ) from error
        except DetectionError as error:
            raise UserError(str(error)) from error
        with self._lock:
            if self.clip is not clip:
                return []
            if self.model != model:
                raise UserError("The model was changed during the search. Search again.")
            self.check_not_tracking()
            self._searches += 1
            added = []
            for one, logits, score in zip(found, done.logits, done.scores, strict=True):
                room = sum(map(len, self.prompts.values())) < self.settings.max_prompts
                if not room or len(self._prompted) >= self.settings.max_objects:
                    break
                object_id = next_object_id(self._prompted, self.settings.max_objects)
                result = self._result(frame, object_id)
                self._steps.append(_Step(frame, object_id, None, result, self.current, self._searches))
                self.prompts.setdefault(frame, {})[object_id] = prompts[one.object_id]
                self._keep(frame, [object_id], logits[None], [score])
                self.found.add(one, object_id, clip.number(frame))
                added.append(object_id)
            if added:
                self.current = added[0]
            return added

    @property
    def _prompted(self) -> list[int]:
        """The ids of all prompted objects."""
        return sorted({i for on_frame in self.prompts.values() for i in on_frame})

    def _forget_unprompted(self) -> None:
        """Forget the labels of objects without a prompt."""
        self.found.keep(self._prompted)

    def add_prompts(self, prompts: Prompts) -> None:
        """Replace all prompts. Nothing is segmented yet.

        Args:
            prompts: the prompts by frame and object, in pixels of the video.
        """
        clip = self._check_loaded()
        self.prompts = scaled_prompts(prompts, clip.original, clip.size)

    def choose(self, object_id: int) -> None:
        """Select an object, to which clicks are added from now on."""
        self.current, self.corner = object_id, None

    def undo(self) -> int | None:
        """Undo the last click, or the last search with all that it found.

        Returns:
            The frame of the click, or `None` if it was the first corner of a box, which is not stored for a frame.

        Raises:
            UserError: if there is nothing to undo, or tracking is under way.
        """
        with self._lock:
            self.check_not_tracking()
            self._check_loaded()
            if self.corner is not None:
                self.corner = None
                return None
            if not self._steps:
                raise UserError("There is no click to undo.")
            search = self._steps[-1].search
            while True:
                step = self._steps.pop()
                self._take_back(step)
                if not (search and self._steps and self._steps[-1].search == search):
                    return step.frame

    def _take_back(self, step: _Step) -> None:
        """Restore the prompts and the result from before a step."""
        self._set_prompts(step.frame, step.object_id, step.prompts)
        self._forget_unprompted()
        if step.result is None:
            self._folder.remove(self._check_loaded().number(step.frame), step.object_id)
        else:
            mask = decode_rle(step.result["segmentation"])
            self._keep(step.frame, [step.object_id], np.where(mask, 1.0, -1.0)[None], [step.result["score"]])
        self.current = step.selected

    def next_object(self) -> None:
        """Select a new object.

        Raises:
            UserError: if there are as many objects as allowed.
        """
        with self._lock:
            self.corner = None
            self.current = next_object_id(self._prompted, self.settings.max_objects)

    def remove_object(self) -> int:
        """Remove the selected object with its prompts and masks.

        Returns:
            The id of the object.

        Raises:
            UserError: if this object has no prompt and no mask, or tracking is under way.
        """
        with self._lock:
            self.check_not_tracking()
            self._check_loaded()
            self.corner = None
            removed = self.current
            if removed not in self._prompted and all(
                self._result(self._check_loaded().index(t), removed) is None for t in self._folder.frames
            ):
                raise UserError(
                    f"Object {removed} has no prompt and no mask yet. Choose the object that you want to remove."
                )
            for number in self._folder.frames:
                self._folder.remove(number, self.current)
            for frame in list(self.prompts):
                self._set_prompts(frame, self.current, None)
            self._steps = [step for step in self._steps if step.object_id != self.current]
            self._forget_unprompted()
            self.current = min(self._prompted, default=1)
            return removed

    def _set_prompts(self, frame: int, object_id: int, prompts: ObjectPrompts | None) -> None:
        """Replace the prompts of an object on a frame; None removes them."""
        on_frame = self.prompts.setdefault(frame, {})
        on_frame.pop(object_id, None)
        if prompts is not None:
            on_frame[object_id] = prompts
        if not on_frame:
            del self.prompts[frame]

    def _result(self, frame: int, object_id: int) -> dict[str, Any] | None:
        """Return the record of an object on a frame, or None."""
        number = self._check_loaded().number(frame)
        if number not in self._folder.frames:
            return None
        return next((o for o in self._folder.record(number)["objects"] if o["id"] == object_id), None)

    def _keep(self, frame: int, object_ids: list[int], logits: np.ndarray, scores: list[float]) -> None:
        """Store the masks and the probabilities of objects on a frame."""
        number = self._check_loaded().number(frame)
        self._folder.add(number, f"{number:05d}", object_ids, logits, scores)

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
                self._forget_tracked()
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
                            self._keep(found.index, found.object_ids, found.logits, found.scores)
                    yield found.index, done, total
            self._complete = True
        finally:
            self._tracking = False
            self._stop.clear()

    def cancel(self) -> None:
        """Stop tracking after the current frame."""
        self._stop.set()

    def _forget_tracked(self) -> None:
        """Remove the masks of an earlier run from frames without prompts, because this run may not reach them."""
        prompted = {self._check_loaded().number(frame) for frame in self.prompts}
        for number in self._folder.frames:
            if number not in prompted:
                for one in self._folder.record(number)["objects"]:
                    self._folder.remove(number, one["id"])

    # --------------------------------------------------------------------------------------------------------- results

    def write_results(self, markers: bool = False) -> Results | None:
        """Write the results so far, as `efficienttam track` does.

        Args:
            markers: whether clicks and boxes are drawn in the overlay.

        Returns:
            The paths of the files, or `None` if there are no masks yet.
        """
        with self._lock:
            if self.clip is None or not self._folder.frames:
                return None
            clip, folder = self.clip, self._folder
            write_clip_results(folder, clip, self.prompts, shown_name(self.model), self._complete, markers, self.found)
            archive = self._named("masks.zip")
            archive.unlink(missing_ok=True)  # a running download of the previous file continues
            with zipfile.ZipFile(archive, "w") as file:  # without compression, because PNGs are compressed already
                for png in sorted(folder.annotations.iterdir()):
                    file.write(png, png.relative_to(folder.path))
            return Results(self._as_named(folder.overlay), archive, self._as_named(folder.json))

    def write_json(self) -> Path:
        """Write the JSON file of the results so far, and return its path.

        Raises:
            UserError: if there are no masks yet.
        """
        with self._lock:
            if self.clip is None or not self._folder.frames:
                raise UserError("Track an object first.")
            name = shown_name(self.model)
            write_clip_json(self._folder, self.clip, self.prompts, name, self._complete, self.found)
            return self._folder.json

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


def _shown(result: dict[str, Any] | None) -> np.ndarray | None:
    """Return the mask of a frame's result, bool (height, width), or None if it is empty."""
    return decode_rle(result["segmentation"]) if result and result["area"] else None
