"""What one visitor does in the image tab: objects from clicks, three proposals each, or everything. No Gradio here."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engine
import numpy as np
from clicks import Point, next_object_id, with_click
from settings import Settings
from uploads import Upload, UserError
from video_clip import check_pixels, readable

from efficienttam_hf.app.frames import limited_size, resize_image
from efficienttam_hf.app.segmenting import write_image_results
from efficienttam_hf.image_io import open_image, read_image
from efficienttam_hf.prompts import ObjectPrompts
from efficienttam_hf.visualization import overlay_masks


@dataclass
class _ImageObject:
    """Prompts as they grew, the proposals for the last of them, and which proposal is taken."""

    prompts: list[ObjectPrompts] = field(default_factory=list)
    proposals: list[dict[str, Any]] = field(default_factory=list)
    chosen: int = 0


class ImageWork:
    """An image and the objects found in it.

    Args:
        folder: the visitor's own; results lie in it.

    Attributes:
        image: uint8 (height, width, 3) RGB; `None` before `load`.
        current: the object that clicks are for.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings
        self.image: np.ndarray | None = None
        self._name = ""
        self._lock = threading.Lock()  # of clicks, which may be as fast as the two that draw a box
        self._reset()

    def _reset(self) -> None:
        self._objects: dict[int, _ImageObject] = {}
        self._all: list[dict[str, Any]] = []
        self.current = 1
        self.corner: Point | None = None

    def load(self, path: Path) -> None:
        """Begin anew with an uploaded file. It is decoded here and then deleted.

        Raises:
            UserError: if it is no image, or larger than allowed; what was there before stays.
        """
        upload = Upload(path, self.folder, self.settings)
        try:
            with open_image(upload.path) as header:
                check_pixels(header.height, header.width, self.settings)
            image = read_image(upload.path)
        except (ValueError, OSError) as error:
            raise UserError(f"This file cannot be read as an image. {readable(error)}") from error
        finally:
            upload.delete()
        self.image = resize_image(image, limited_size(image.shape[:2], self.settings.image_side))
        self._name = path.name
        self._reset()

    def close(self) -> None:
        """Forget and delete everything."""
        self.image = None
        self._reset()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _check_loaded(self) -> np.ndarray:
        if self.image is None:
            raise UserError("Choose an image first.")
        return self.image

    @property
    def objects(self) -> list[int]:
        """Ids of the objects prompted, and of the one that is to be."""
        return sorted({*self._objects, self.current})

    @property
    def proposals(self) -> list[dict[str, Any]]:
        """For the current object: masks with `score`, the predicted IoU, the best first."""
        return self._objects[self.current].proposals if self.current in self._objects else []

    def click(self, kind: str, point: Point) -> None:
        """One click of a kind of `clicks.KINDS` for the current object.

        Raises:
            UserError: if the click says nothing.
        """
        image = self._check_loaded()
        with self._lock:
            self._all = []
            known = self._objects.get(self.current)
            before = known.prompts if known else []
            prompts, self.corner = with_click(before[-1] if before else ObjectPrompts(), kind, point, self.corner)
            if self.corner is None:
                self._propose(image, [*before, prompts])

    def _propose(self, image: np.ndarray, prompts: list[ObjectPrompts]) -> None:
        self._objects[self.current] = _ImageObject(prompts, engine.propose_masks(image, self.current, prompts[-1]))

    def choose(self, number: int) -> None:
        """Take another of the current object's proposals."""
        if number < len(self.proposals):
            self._objects[self.current].chosen = number

    def undo(self) -> None:
        """Take back the current object's last click."""
        if self.corner is not None:
            self.corner = None
        elif self.current in self._objects:
            prompts = self._objects[self.current].prompts[:-1]
            if prompts:
                self._propose(self.image, prompts)
            else:
                del self._objects[self.current]

    def next_object(self) -> None:
        """Clicks are for a new object from now on.

        Raises:
            UserError: if there are as many as allowed.
        """
        self.corner = None
        self.current = next_object_id(list(self._objects), self.settings.max_objects)

    def remove_object(self) -> None:
        """Forget the current object."""
        self.corner = None
        self._objects.pop(self.current, None)
        self.current = min(self._objects, default=1)

    def everything(self, least_iou: float) -> int:
        """Find all objects with a predicted IoU of at least that, in place of those prompted; how many."""
        image = self._check_loaded()
        self._reset()
        self._all = engine.segment_everything(image, self.settings.grid, least_iou)
        return len(self._all)

    def _found(self) -> tuple[list[dict[str, Any]], dict[int, ObjectPrompts]]:
        if self._all:
            return self._all, {}
        found = [
            {"id": i, **one.proposals[one.chosen], "prompts": one.prompts[-1].as_json()}
            for i, one in sorted(self._objects.items())
        ]
        return found, {i: one.prompts[-1] for i, one in self._objects.items()}

    def picture(self) -> np.ndarray:
        """The image with masks and prompts drawn: uint8 (height, width, 3) RGB."""
        found, prompts = self._found()
        corner = [ObjectPrompts([self.corner], [1])] if self.corner else []
        return overlay_masks(
            self._check_loaded(),
            {one["id"]: one["mask"] for one in found},
            labels=len(found) > 1 and not self._all,
            prompts=[*prompts.values(), *corner],
        )

    def proposal_pictures(self) -> list[np.ndarray]:
        """The current object's proposals, each drawn alone."""
        return [overlay_masks(self.image, {self.current: proposal["mask"]}) for proposal in self.proposals]

    def write_results(self) -> list[Path]:
        """Overlay, indexed PNG and JSON, as of `efficienttam segment`; nothing where nothing was found."""
        found, prompts = self._found()
        if not found:
            return []
        files = {name: self.folder / name for name in ("overlay.png", "masks.png", "masks.json")}
        write_image_results(files, self.image, self._name, self.settings.model, found, prompts, not self._all)
        return list(files.values())
