"""The prompts of a visitor's video: clicks, searches and earlier results, and their undo. A part of `video_work`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import engine
import numpy as np
from clicks import Point, inside, next_object_id, with_click
from clip_masks import ClipMasks
from uploads import UserError
from video_clip import Clip
from video_state import VideoState

from efficienttam_hf.discovery import FoundObject
from efficienttam_hf.mask_io import decode_rle
from efficienttam_hf.prompts import ObjectPrompts, Prompts, scaled_prompts


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


class PromptedVideo(VideoState):
    """A video whose objects are prompted. Attributes: see `video_work.VideoWork`."""

    def _reset(self) -> None:
        """Remove all prompts and steps."""
        super()._reset()
        self._steps: list[_Step] = []
        self._searches = 0

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
            self._masks.remove_all()
            self._complete = False

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
            result = self._masks.result(frame, object_id)
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
            self._masks.keep(frame, [object_id], found.logits, found.scores)

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
        done, prompts, found = engine.find_objects(model, image, texts, known, most)  # without the lock, as in `click`
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
                result = self._masks.result(frame, object_id)
                self._steps.append(_Step(frame, object_id, None, result, self.current, self._searches))
                self.prompts.setdefault(frame, {})[object_id] = prompts[one.object_id]
                self._masks.keep(frame, [object_id], logits[None], [score])
                self.found.add(one, object_id, clip.number(frame))
                added.append(object_id)
            if added:
                self.current = added[0]
            return added

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
        self.current = min(self._prompted, default=1)

    def take_results(
        self,
        clip: Clip,
        masks: ClipMasks,
        prompts: Prompts,
        found: Iterable[tuple[FoundObject, int]],
        complete: bool,
    ) -> None:
        """Go on from earlier results in place of all prompts and masks; `given_results` reads them.

        Args:
            clip: the clip that the results were checked against.
            masks: the masks, from `new_masks`.
            prompts: prompts by frame and object, in pixels of the clip's frames.
            found: objects that were found, and the frame of the clip on which each was.
            complete: whether tracking reached its end.

        Raises:
            UserError: if another video was chosen meanwhile, or tracking is under way. Nothing is changed.
        """
        with self._lock:
            if self.clip is not clip:
                raise UserError("Another video was chosen meanwhile, so the results are not used.")
            self.check_not_tracking()
            self._masks.delete()
            self._reset()
            self._open_masks, self.prompts, self._complete = masks, prompts, complete
            for one, frame in found:
                self.found.add(one, one.object_id, clip.number(frame))
            self.current = min(self._prompted, default=1)

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
            self._masks.remove(step.frame, step.object_id)
        else:
            mask = decode_rle(step.result["segmentation"])
            self._masks.keep(step.frame, [step.object_id], np.where(mask, 1.0, -1.0)[None], [step.result["score"]])
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
            if removed not in self._prompted and not self._masks.has_object(removed):
                raise UserError(
                    f"Object {removed} has no prompt and no mask yet. Choose the object that you want to remove."
                )
            self._masks.remove_object(removed)
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


def _shown(result: dict[str, Any] | None) -> np.ndarray | None:
    """Return the mask of a frame's result, bool (height, width), or None if it is empty."""
    return decode_rle(result["segmentation"]) if result and result["area"] else None
