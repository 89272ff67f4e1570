"""The state of a visitor's camera tab: objects tracked from frame to frame in bounded memory, without Gradio."""

from __future__ import annotations

import engine
import numpy as np
from clicks import Point, inside
from settings import Settings
from uploads import UserError

from efficienttam_hf.app.frames import limited_size, resize_image
from efficienttam_hf.prompts import ObjectPrompts
from efficienttam_hf.visualization import overlay_masks


class LiveWork:
    """Tracks objects in the frames of a camera. A click takes effect on the next frame.

    Args:
        settings: the settings of the demo.

    Attributes:
        objects: the ids of the tracked objects.
        model: the name of the model.
        model_is_new: whether the visitor has not yet been told that the model was changed.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.model = engine.store.first
        self.model_is_new = False
        self._size: tuple[int, int] | None = None
        self.reset()

    def reset(self) -> None:
        """Remove all objects."""
        self.objects: list[int] = []
        self._session: engine.LiveSession | None = None
        self._waiting: list[Point] = []

    def change_model(self, name: str) -> None:
        """Use another model from now on. All objects are removed."""
        if name != self.model:
            self.model, self.model_is_new = name, bool(self.objects)
            self.reset()

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the frames.

        Raises:
            UserError: if there was no frame yet.
        """
        if self._size is None:
            raise UserError("Start the camera first.")
        return self._size

    def click(self, point: Point) -> int:
        """Add an object at a click.

        Args:
            point: (x, y) in pixels of the last frame.

        Returns:
            The id of the object.

        Raises:
            UserError: if there was no frame yet, or there are as many objects as allowed.
        """
        most = self.settings.max_objects
        if len(self.objects) + len(self._waiting) >= most:
            raise UserError(f"There can be at most {most} objects. Press Start anew to choose others.")
        self._waiting.append(inside(point, self.size))
        return len(self.objects) + len(self._waiting)

    def frame(self, image: np.ndarray) -> np.ndarray:
        """Track the objects on the next frame and draw their masks.

        Args:
            image: uint8 (height, width, 3) RGB.

        Returns:
            uint8 (height, width, 3) RGB, scaled down to `settings.live_side`.
        """
        image = resize_image(image, limited_size(image.shape[:2], self.settings.live_side))
        size = image.shape[:2]
        if size != self._size:  # another camera, or a phone was turned
            self.reset()
            self._size = size
        waiting, self._waiting = self._waiting, []
        for point in waiting:
            self._session = self._session or engine.LiveSession(self.model)
            object_id = len(self.objects) + 1
            self._session.prompt(object_id, ObjectPrompts([point], [1]), size)
            self.objects.append(object_id)
        if self._session is None:
            return image
        return overlay_masks(image, self._session.track(image), labels=len(self.objects) > 1)
