"""What one visitor does in the video tab: prompts, masks, tracking, undo, results. Knows nothing of Gradio.

Coordinates are pixels of the clip's frames, and frames are numbered as in the clip, until results are written: there
both are the video's own. Masks lie on disk, in the visitor's folder, as those of `efficienttam track` do. All methods
may be called from several threads; tracking gives way to the others between frames.
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
from model_store import shown_name
from settings import Settings
from uploads import Upload, UserError
from video_clip import Clip, ClipFrames, clip_of_file

from efficienttam_hf.app.plan import TrackingPlan, plan_tracking
from efficienttam_hf.app.results import TrackFolder
from efficienttam_hf.mask_io import decode_rle
from efficienttam_hf.prompts import ObjectPrompts, Prompts, prompts_as_json, scaled_prompts
from efficienttam_hf.visualization import overlay_masks


@dataclass
class _Step:
    """What a click changed: an object on a frame, as it was before."""

    frame: int
    object_id: int
    prompts: ObjectPrompts | None
    result: dict[str, Any] | None


@dataclass(frozen=True)
class Results:
    """The files that a visitor takes home."""

    overlay: Path
    masks_zip: Path
    masks_json: Path


class VideoWork:
    """A clip, the prompts on it, and the masks so far.

    Args:
        folder: the visitor's own; everything here lies in it and goes with `close`.

    Attributes:
        clip: `None` before `load`.
        prompts: by frame and object.
        current: the object that clicks are for.
        corner: where a box was begun.
        cancelled: whether the last tracking was stopped before its end.
        model: that finds objects.
        model_is_new: whether the visitor is still to be told of it.
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
        self.prompts: Prompts = {}
        self.current = 1
        self.corner: Point | None = None
        self._steps: list[_Step] = []
        self._prepared: tuple[str, int | None] | None = None
        self._complete = False
        self.cancelled = False

    # ------------------------------------------------------------------------------------------------------ the model

    def change_model(self, name: str) -> None:
        """Work with another model from now on. Clicks stay; masks, which were the other's, are forgotten.

        Corrections of tracked masks are forgotten with these.

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
            self._steps = [replace(one, result=None) for one in self._steps if (one.frame, one.object_id) in stays]
            for number in list(self._folder.frames):
                for one in list(self._folder.record(number)["objects"]):
                    self._folder.remove(number, one["id"])
            self._complete = False

    # ------------------------------------------------------------------------------------------------------- the clip

    def load(self, path: Path, max_side: int, stride: int) -> Clip:
        """Begin anew with an uploaded file.

        Raises:
            UserError: if it is no video, or larger than allowed; it is deleted, and what was there before stays.
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
        self.release()
        for name in ("results", "files"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def release(self) -> None:
        """Let go of the video and of all that is open. Written results stay."""
        with self._lock:
            self._open.close()
            self.clip = self._open_frames = None
            if self._open_folder is not None:
                self._open_folder.close()
            if self._upload is not None:
                self._upload.delete()
                self._upload = None

    def close(self) -> None:
        """Stop what is running and delete everything."""
        self._stop.set()
        with self._lock:
            self._closed = True
            self._let_go()
            shutil.rmtree(self.folder, ignore_errors=True)

    def check_not_tracking(self) -> None:
        """Raise `UserError` while tracking is under way."""
        if self.tracking:
            raise UserError("Tracking is under way: wait for it, or cancel it first.")

    @property
    def tracking(self) -> bool:
        """Whether tracking is under way."""
        return self._tracking

    def _check_loaded(self) -> Clip:
        if self.clip is None:
            raise UserError("Choose a video first.")
        return self.clip

    @property
    def _frames(self) -> ClipFrames:
        if self._open_frames is None:
            raise UserError("Choose a video first.")
        return self._open_frames

    @property
    def _folder(self) -> TrackFolder:
        if self._open_folder is None:
            raise UserError("Choose a video first.")
        return self._open_folder

    # ----------------------------------------------------------------------------------------------------- the picture

    def picture(self, frame: int, opacity: float = 0.5) -> np.ndarray:
        """A frame with its masks and prompts drawn: uint8 (height, width, 3) RGB."""
        with self._lock:
            clip = self._check_loaded()
            image = self._frame(frame)
            number = clip.number(frame)
            masks = self._folder.masks(number) if number in self._folder.frames else {}
            corner = [ObjectPrompts([self.corner], [1])] if self.corner else []
            here = [*self.prompts.get(frame, {}).values(), *corner]
        return overlay_masks(image, masks, opacity, labels=len(self.objects) > 1, prompts=here)

    def _frame(self, frame: int) -> np.ndarray:
        try:
            return self._frames[frame]
        except IndexError as error:
            raise UserError(f"The video is damaged: it ends before frame {frame}.") from error

    @property
    def objects(self) -> list[int]:
        """Ids of the objects prompted, and of the one that is to be."""
        return sorted({i for on_frame in self.prompts.values() for i in on_frame} | {self.current})

    def scores(self) -> list[tuple[int, int, float]]:
        """For each frame and object with a mask: frame number in the video, object id, probability that it is there."""
        with self._lock:
            if self.clip is None:
                return []
            return [(t, o["id"], o["score"]) for t in self._folder.frames for o in self._folder.record(t)["objects"]]

    # --------------------------------------------------------------------------------------------------------- prompts

    def click(self, frame: int, kind: str, point: Point) -> None:
        """One click of a kind of `clicks.KINDS` for the current object, answered with a mask on that frame.

        The first click on a frame that was tracked corrects the mask there.

        Raises:
            UserError: if the click says nothing, or tracking is under way.
        """
        with self._lock:
            clip = self._check_loaded()
            self.check_not_tracking()
            object_id = self.current
            result = self._result(frame, object_id)
            before = self.prompts.get(frame, {}).get(object_id)
            most = self.settings.max_prompts
            if before is None and sum(map(len, self.prompts.values())) >= most:
                raise UserError(f"Up to {most} corrections in a video. Undo some to make others.")
            given = before or ObjectPrompts(mask=_shown(result))
            point = inside(point, clip.size)
            given, self.corner = with_click(given, kind, point, self.corner, self.settings.max_points)
            if self.corner is not None:
                return
            image = self._frame(frame)
            model = self.model
        found = engine.segment_frame(model, image, object_id, given)  # others may draw meanwhile
        with self._lock:
            if self.clip is not clip:
                return
            if self.model != model:
                raise UserError("The model was changed while this click was answered. Click again.")
            self.check_not_tracking()  # it began while this click was answered
            self._steps.append(_Step(frame, object_id, before, result))
            self.prompts.setdefault(frame, {})[object_id] = given
            self._keep(frame, [object_id], found.logits, found.scores)

    def add_prompts(self, prompts: Prompts) -> None:
        """Prompts by frame and object, in pixels of the video, in place of those there are. Nothing is run yet."""
        clip = self._check_loaded()
        self.prompts = scaled_prompts(prompts, clip.original, clip.size)

    def choose(self, object_id: int) -> None:
        """Clicks are for this object from now on."""
        self.current, self.corner = object_id, None

    def undo(self) -> int | None:
        """Take back the last click; its frame, or `None` if it was a corner of a box, which is on no frame yet.

        Raises:
            UserError: if there is nothing to take back, or tracking is under way.
        """
        with self._lock:
            self.check_not_tracking()
            self._check_loaded()
            if self.corner is not None:
                self.corner = None
                return None
            if not self._steps:
                raise UserError("There is no click to take back.")
            step = self._steps.pop()
            self._set_prompts(step.frame, step.object_id, step.prompts)
            if step.result is None:
                self._folder.remove(self._check_loaded().number(step.frame), step.object_id)
            else:
                mask = decode_rle(step.result["segmentation"])
                self._keep(step.frame, [step.object_id], np.where(mask, 1.0, -1.0)[None], [step.result["score"]])
            self.current = step.object_id
            return step.frame

    def next_object(self) -> None:
        """Clicks are for a new object from now on.

        Raises:
            UserError: if there are as many as allowed.
        """
        with self._lock:
            self.corner = None
            prompted = [i for i in self.objects if any(i in on_frame for on_frame in self.prompts.values())]
            self.current = next_object_id(prompted, self.settings.max_objects)

    def remove_object(self) -> int:
        """Forget the current object, its prompts and its masks; its id.

        Raises:
            UserError: if there is nothing of it, or tracking is under way.
        """
        with self._lock:
            self.check_not_tracking()
            self._check_loaded()
            self.corner = None
            removed = self.current
            prompted = any(removed in on_frame for on_frame in self.prompts.values())
            if not prompted and all(
                self._result(self._check_loaded().index(t), removed) is None for t in self._folder.frames
            ):
                raise UserError(f"There is nothing of object {removed} yet. Choose the object that is to be removed.")
            for number in self._folder.frames:
                self._folder.remove(number, self.current)
            for frame in list(self.prompts):
                self._set_prompts(frame, self.current, None)
            self._steps = [step for step in self._steps if step.object_id != self.current]
            self.current = min((i for on_frame in self.prompts.values() for i in on_frame), default=1)
            return removed

    def _set_prompts(self, frame: int, object_id: int, prompts: ObjectPrompts | None) -> None:
        on_frame = self.prompts.setdefault(frame, {})
        on_frame.pop(object_id, None)
        if prompts is not None:
            on_frame[object_id] = prompts
        if not on_frame:
            del self.prompts[frame]

    def _result(self, frame: int, object_id: int) -> dict[str, Any] | None:
        number = self._check_loaded().number(frame)
        if number not in self._folder.frames:
            return None
        return next((o for o in self._folder.record(number)["objects"] if o["id"] == object_id), None)

    def _keep(self, frame: int, object_ids: list[int], logits: np.ndarray, scores: list[float]) -> None:
        number = self._check_loaded().number(frame)
        self._folder.add(number, f"{number:05d}", object_ids, logits, scores)

    # -------------------------------------------------------------------------------------------------------- tracking

    def plan(self, direction: str, start: int | None = None) -> tuple[Prompts, TrackingPlan]:
        """What to track: every object from its prompts on or, with `start`, from there those prompted on that frame.

        Raises:
            UserError: if nothing is prompted.
        """
        self._check_loaded()
        if not self.prompts:
            raise UserError("Click on an object first.")
        if start is None:
            return dict(self.prompts), plan_tracking({t: list(p) for t, p in self.prompts.items()}, direction)
        ids = list(self.prompts.get(start, {}))
        if not ids:
            raise UserError("Correct an object on this frame first: click on what is missing, or on what is too much.")
        chosen = {t: {i: p for i, p in on_frame.items() if i in ids} for t, on_frame in self.prompts.items()}
        return chosen, TrackingPlan(dict.fromkeys(ids, start), dict.fromkeys(ids, start), direction)

    def prepare_tracking(self, direction: str, start: int | None = None) -> None:
        """`track` is wanted, but has to wait: a `cancel` counts from here on.

        Raises:
            UserError: where `track` would.
        """
        with self._lock:
            self.check_not_tracking()
            self.plan(direction, start)
            self.corner = None
            self._prepared = (direction, start)
            self._stop.clear()

    def take_prepared(self) -> tuple[str, int | None] | None:
        """What `prepare_tracking` was given, once; `None` where it refused."""
        with self._lock:
            prepared, self._prepared = self._prepared, None
            return prepared

    def track(self, direction: str, start: int | None = None) -> Iterator[tuple[int, int, int]]:
        """Track, yielding for each frame done: the frame, how many are done, how many there will be.

        Ends early after `cancel`, also one of before; what was done stays, and `cancelled` is true.

        Args:
            direction: "forward", "backward" or "both".
            start: see `plan`.

        Raises:
            UserError: if nothing is prompted, or tracking is under way already.
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
            with closing(engine.track(self.model, clip, prompts, plan)) as steps:  # and the model is let go
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
        """Stop tracking after the frame it is on."""
        self._stop.set()

    def _forget_tracked(self) -> None:
        """Masks of an earlier run, on frames without prompts, that this one may not reach."""
        prompted = {self._check_loaded().number(frame) for frame in self.prompts}
        for number in self._folder.frames:
            if number not in prompted:
                for one in self._folder.record(number)["objects"]:
                    self._folder.remove(number, one["id"])

    # --------------------------------------------------------------------------------------------------------- results

    def write_results(self, markers: bool = False) -> Results | None:
        """Write what there is, as `efficienttam track` does; `None` where there is nothing yet.

        Args:
            markers: whether clicks and boxes are drawn in the overlay, too.
        """
        with self._lock:
            if self.clip is None or not self._folder.frames:
                return None
            clip, folder = self.clip, self._folder
            in_video = {clip.number(t): on_frame for t, on_frame in self.prompts.items()}
            height, width = clip.size
            folder.write_json(
                {
                    "video": {"name": clip.name, "width": width, "height": height, "fps": clip.fps},
                    "prompt_size": {"width": clip.original[1], "height": clip.original[0]},
                    "complete": self._complete,
                    "model": shown_name(self.model),
                    "objects": prompts_as_json(scaled_prompts(in_video, clip.size, clip.original)),
                }
            )
            with clip.open() as frames:
                folder.write_overlay(
                    lambda number: frames[clip.index(number)],
                    clip.size,
                    clip.fps,
                    in_video,
                    folder.frames,
                    lambda number: frames.times(clip.index(number)),
                    frames.sound,
                    show_prompts=markers,
                )
            archive = self._named("masks.zip")
            archive.unlink(missing_ok=True)  # the file itself: a download of the last one goes on
            with zipfile.ZipFile(archive, "w") as file:  # PNGs are compressed already
                for png in sorted(folder.annotations.iterdir()):
                    file.write(png, png.relative_to(folder.path))
            return Results(self._as_named(folder.overlay), archive, self._as_named(folder.json))

    def _named(self, name: str) -> Path:
        """Where a result lies under the name that it is taken home with, which begins with that of the video."""
        path = self.folder / "files" / f"{self._check_loaded().name}_{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _as_named(self, path: Path) -> Path:
        named = self._named(path.name)
        named.unlink(missing_ok=True)
        try:
            os.link(path, named)
        except OSError:  # a file system without links
            shutil.copyfile(path, named)
        return named


def _shown(result: dict[str, Any] | None) -> np.ndarray | None:
    """The mask of a frame's result, unless it is empty."""
    return decode_rle(result["segmentation"]) if result and result["area"] else None
