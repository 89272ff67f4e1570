"""The state of a visitor's image tab: objects from clicks, with three proposals each, or all objects. No Gradio."""

from __future__ import annotations

import secrets
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import engine
import numpy as np
from clicks import Point, inside, next_object_id, with_click
from found_objects import drawn_name
from model_store import shown_name
from settings import Settings
from uploads import Upload, UserError
from video_clip import check_pixels, file_name, readable

from efficienttam_hf.app.frames import limited_size, resize_image
from efficienttam_hf.app.segmenting import write_image_results
from efficienttam_hf.discovery import FoundObject
from efficienttam_hf.image_io import open_image, read_image
from efficienttam_hf.prompts import ObjectPrompts
from efficienttam_hf.visualization import overlay_masks


MAX_STEPS = 100  # the largest number of steps that can be undone


class _Mask:
    """A mask with eight pixels per byte, because undo keeps many masks."""

    def __init__(self, mask: np.ndarray):
        self._shape = mask.shape
        self._bits = np.packbits(mask)

    def unpacked(self) -> np.ndarray:
        """Return the mask as bool (height, width)."""
        height, width = self._shape
        return np.unpackbits(self._bits, count=height * width).reshape(self._shape).astype(bool)


@dataclass(frozen=True)
class _ImageObject:
    """The prompts of an object, its proposals with their predicted IoU, and the number of the proposal that is used.

    Objects that *Everything* found have no prompts and one proposal, and so have those of a detector that gives masks.
    `found` is what is known of an object that was found from a text.
    """

    prompts: ObjectPrompts
    proposals: tuple[tuple[float, _Mask], ...]
    chosen: int = 0
    found: FoundObject | None = None

    @property
    def score(self) -> float:
        """The predicted IoU of the proposal that is used."""
        return self.proposals[self.chosen][0]

    def mask(self) -> np.ndarray:
        """Return the mask of the proposal that is used: bool (height, width)."""
        return self.proposals[self.chosen][1].unpacked()


@dataclass(frozen=True)
class _Step:
    """A change that can be undone: its kind, and all objects before it."""

    what: str
    objects: dict[int, _ImageObject]
    current: int


class ImageWork:
    """An image and the objects found in it.

    Args:
        folder: the visitor's folder for images, which has the results.
        settings: the settings of the demo.

    Attributes:
        image: uint8 (height, width, 3) RGB; `None` before `load`.
        original: (height, width) of the file.
        current: the id of the selected object, to which clicks are added.
        corner: the first corner of a box, or `None`.
        model: the name of the model.
        model_is_new: whether the visitor has not yet been told that the model was changed.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings
        self.model = engine.store.first
        self.model_is_new = False
        self.image: np.ndarray | None = None
        self.original = (0, 0)
        self._name = self._file_name = ""
        self._closed = False
        self._lock = threading.RLock()  # clicks can follow each other fast, such as the two corners of a box
        self._reset()

    def _reset(self) -> None:
        """Remove all objects and steps."""
        self._objects: dict[int, _ImageObject] = {}  # the dictionary is never changed in place: steps keep it
        self._steps: list[_Step] = []
        self.current = 1
        self.corner: Point | None = None

    def load(self, path: Path, max_side: int | None = None) -> None:
        """Load an uploaded file in place of the current image. The file is decoded and then deleted.

        Args:
            path: the path of the uploaded file.
            max_side: the longer side of the results in pixels; None is that of the settings, and 0 that of the image,
                within the settings' limit.

        Raises:
            UserError: if the file is not an image, or larger than allowed. The current image is kept.
        """
        upload = Upload(path, self.folder / f"upload-{secrets.token_hex(4)}", self.settings)
        try:
            with open_image(upload.path) as header:
                check_pixels(header.height, header.width, self.settings)
            image = read_image(upload.path)
        except (ValueError, OSError) as error:
            raise UserError(f"This file cannot be read as an image. {readable(error)}") from error
        finally:
            upload.delete()
        side = self.settings.image_side if max_side is None else max_side or self.settings.max_result_side
        with self._lock:
            if self._closed:  # the visitor left meanwhile
                raise UserError("This page was closed. Load it again.")
            self.original = image.shape[:2]
            self.image = resize_image(image, limited_size(image.shape[:2], side))
            self._name, self._file_name = path.name, file_name(path)
            shutil.rmtree(self.folder, ignore_errors=True)
            self._reset()

    def close(self) -> None:
        """Delete the image and all files."""
        with self._lock:
            self._closed = True
            self.image = None
            self._reset()
            shutil.rmtree(self.folder, ignore_errors=True)

    def change_model(self, name: str) -> None:
        """Use another model from now on. The objects of the image are removed."""
        with self._lock:
            if name != self.model:
                self.model, self.model_is_new = name, self.image is not None
                self._reset()

    @property
    def shown_size(self) -> tuple[int, int]:
        """(height, width) of the image after it was scaled down.

        Raises:
            UserError: if there is no image.
        """
        height, width = self._check_loaded().shape[:2]
        return height, width

    def _check_loaded(self) -> np.ndarray:
        """Return the image, or raise `UserError` if there is none."""
        if self.image is None:
            raise UserError("Choose an image first.")
        return self.image

    @property
    def objects(self) -> list[int]:
        """The ids of all objects, including the selected one, which may be new."""
        return sorted({*self._objects, self.current})

    @property
    def proposals(self) -> list[dict[str, Any]]:
        """The proposals for the selected object, best first: `mask`, bool (height, width); `score`, predicted IoU."""
        one = self._objects.get(self.current)
        return [{"score": score, "mask": mask.unpacked()} for score, mask in one.proposals] if one else []

    @property
    def chosen(self) -> int:
        """The number of the proposal that is used for the selected object."""
        one = self._objects.get(self.current)
        return one.chosen if one else 0

    def _change(self, what: str, objects: dict[int, _ImageObject]) -> None:
        """Replace all objects and keep the previous ones as a step."""
        self._steps = [*self._steps, _Step(what, self._objects, self.current)][-MAX_STEPS:]
        self._objects = objects

    def click(self, kind: str, point: Point) -> None:
        """Add a click to the prompts of the selected object, and compute new proposals.

        Args:
            kind: one of `clicks.KINDS`.
            point: (x, y) in pixels of the image.

        Raises:
            UserError: if there is no image, or the click cannot be used; see `clicks.with_click`.
        """
        with self._lock:
            image = self._check_loaded()
            object_id = self.current
            before = self._objects[object_id].prompts if object_id in self._objects else ObjectPrompts()
            point = inside(point, image.shape[:2])
            prompts, self.corner = with_click(before, kind, point, self.corner, self.settings.max_points)
            if self.corner is not None:
                return
            proposals = _packed(engine.propose_masks(self.model, image, {object_id: prompts})[object_id])
            known = self._objects[object_id].found if object_id in self._objects else None
            self._change("click", {**self._objects, object_id: _ImageObject(prompts, proposals, found=known)})

    def choose(self, number: int) -> None:
        """Use another proposal for the selected object."""
        with self._lock:
            one = self._objects.get(self.current)
            if one is not None and number < len(one.proposals):
                self._objects = {**self._objects, self.current: replace(one, chosen=number)}

    def choose_object(self, object_id: int) -> None:
        """Select an object, to which clicks are added from now on."""
        self.current, self.corner = object_id, None

    def undo(self) -> str:
        """Undo the last change.

        Returns:
            The kind of the change: `"corner"`, `"click"`, `"removal"`, `"everything"` or `"search"`.

        Raises:
            UserError: if there is nothing to undo.
        """
        with self._lock:
            self._check_loaded()
            if self.corner is not None:
                self.corner = None
                return "corner"
            if not self._steps:
                raise UserError("There is nothing to undo.")
            step = self._steps.pop()
            self._objects, self.current = step.objects, step.current
            return step.what

    def next_object(self) -> None:
        """Select a new object.

        Raises:
            UserError: if there are as many objects as allowed.
        """
        self._check_loaded()
        self.corner = None
        self.current = next_object_id(list(self._objects), self.settings.max_objects)

    def remove_object(self) -> int:
        """Remove the selected object.

        Returns:
            The id of the object.

        Raises:
            UserError: if this object has no mask.
        """
        with self._lock:
            self._check_loaded()
            self.corner = None
            removed = self.current
            if removed not in self._objects:
                raise UserError(f"Object {removed} has no mask yet. Choose the object that you want to remove.")
            self._change("removal", {i: one for i, one in self._objects.items() if i != removed})
            self.current = min(self._objects, default=1)
            return removed

    def everything(self, least_iou: float) -> int:
        """Find all objects of the image, in place of the current objects. If none is found, nothing changes.

        Args:
            least_iou: the smallest predicted IoU, from 0 to 1.

        Returns:
            The number of objects that were found.
        """
        image, model = self._check_loaded(), self.model
        found = engine.segment_everything(model, image, self.settings.grid, least_iou)
        with self._lock:
            if self.image is image and self.model == model and found:
                self.corner = None
                self._change(
                    "everything",
                    {o["id"]: _ImageObject(ObjectPrompts(), ((o["score"], _Mask(o["mask"])),)) for o in found},
                )
                self.current = min(self._objects)
        return len(found)

    def find(self, texts: list[str]) -> list[int]:
        """Find what texts say, and add it to the objects. Objects that are there are not found again.

        Args:
            texts: what to look for.

        Returns:
            The ids of the new objects, the best first.

        Raises:
            UserError: if there is no image, nothing is found, texts cannot be looked for, there are as many objects as
                allowed, or another image or model was chosen meanwhile.
        """
        with self._lock:
            image, model = self._check_loaded(), self.model
            self.corner = None
            most = self.settings.max_objects
            next_object_id(list(self._objects), most)  # raises an error if there is no room
            known = {i: mask for i, mask in self._masks().items() if mask.any()}
            room = most - len(self._objects)
        done, prompts, found = engine.find_objects(model, image, texts, known, len(known) + room)  # without the lock
        boxes = {one.object_id: prompts[one.object_id] for one in found if prompts[one.object_id].mask is None}
        proposed = engine.propose_masks(model, image, boxes) if boxes else {}
        with self._lock:
            if self.image is not image or self.model != model:
                raise UserError("Another image or model was chosen during the search. Search again.")
            objects, added = dict(self._objects), []
            for one, logits, score in zip(found, done.logits, done.scores, strict=True):
                if len(objects) >= most:
                    break
                object_id = next_object_id(list(objects), most)
                masks = proposed.get(one.object_id, [{"score": score, "mask": logits > 0}])
                given = boxes.get(one.object_id, ObjectPrompts())
                objects[object_id] = _ImageObject(given, _packed(masks), found=replace(one, object_id=object_id))
                added.append(object_id)
            self._change("search", objects)
            self.current = added[0]
            return added

    @property
    def labels(self) -> dict[int, str]:
        """The labels by object id; objects without a label are left out."""
        return {i: one.found.label for i, one in self._objects.items() if one.found and one.found.label}

    def _masks(self) -> dict[int, np.ndarray]:
        """Return the masks in use, bool (height, width), by object id."""
        return {i: one.mask() for i, one in sorted(self._objects.items())}

    @property
    def _drawn_names(self) -> bool | dict[int, str]:
        """What is written on objects: labels, or else ids. Nothing is written on the many objects of *Everything*."""
        if self.labels:
            return {i: drawn_name(i, one.found) for i, one in self._objects.items()}
        return len(self._objects) > 1 and not any(one.prompts.is_empty for one in self._objects.values())

    def picture(self) -> np.ndarray:
        """Return the image with masks and prompts drawn: uint8 (height, width, 3) RGB."""
        with self._lock:
            image = self._check_loaded()
            corner = [ObjectPrompts([self.corner], [1])] if self.corner else []
            prompts = [one.prompts for one in self._objects.values()]
            return overlay_masks(image, self._masks(), labels=self._drawn_names, prompts=[*prompts, *corner])

    def image_with_masks(self) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Return the image, uint8 (height, width, 3) RGB, and its masks, bool (height, width), by object id.

        Raises:
            UserError: if there is no image, or no object in it.
        """
        with self._lock:
            image = self._check_loaded()
            if not self._objects:
                raise UserError("Click on an object first.")
            return image, self._masks()

    @property
    def json_file(self) -> Path:
        """The JSON file that `write_results` wrote last; raises `UserError` if there is none."""
        with self._lock:
            self.image_with_masks()
            path = self.folder / f"{self._file_name}_masks.json"
            if not path.is_file():
                raise UserError("Click on an object first.")
            return path

    def export_path(self, name: str) -> Path:
        """Return the path of one more file for download. The one before it is deleted, so that there is only one."""
        with self._lock:
            path = self.folder / "export" / f"{self._file_name}_{name}"
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir(parents=True)
            return path

    def proposal_pictures(self) -> list[np.ndarray]:
        """Return a picture of each proposal of the selected object; an object of *Everything* has none to choose."""
        with self._lock:
            one, image = self._objects.get(self.current), self.image
            if image is None or one is None or len(one.proposals) == 1:
                return []
            return [overlay_masks(image, {self.current: mask.unpacked()}) for _, mask in one.proposals]

    def write_results(self, markers: bool = False) -> list[Path]:
        """Write the overlay, the indexed PNG and the JSON file, as `efficienttam segment` does.

        Args:
            markers: whether clicks and boxes are drawn in the overlay.

        Returns:
            The paths of the three files; an empty list if there are no objects.
        """
        with self._lock:
            if self.image is None or not self._objects:
                return []
            size = self.image.shape[:2]
            found = []
            for i, one in sorted(self._objects.items()):
                entry: dict[str, Any] = {"id": i, "score": one.score, "mask": one.mask()}
                if not one.prompts.is_empty:
                    entry["prompts"] = one.prompts.scaled(size, self.original).as_json()
                if one.found:
                    entry |= {"label": one.found.label, "detection_score": round(one.found.score, 4)}
                found.append(entry)
            self.folder.mkdir(parents=True, exist_ok=True)
            names = ("overlay.png", "masks.png", "masks.json")
            files = {name: self.folder / f"{self._file_name}_{name}" for name in names}
            drawn = {i: one.prompts for i, one in self._objects.items()} if markers else {}
            write_image_results(
                files, self.image, self._name, shown_name(self.model), found, drawn, self._drawn_names, self.original
            )
            return list(files.values())


def _packed(proposals: list[dict[str, Any]]) -> tuple[tuple[float, _Mask], ...]:
    """Return the proposals of an object as `_ImageObject` has them."""
    return tuple((one["score"], _Mask(one["mask"])) for one in proposals)
