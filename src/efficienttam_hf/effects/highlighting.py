"""Effects that show where objects are: the overlay, outlines, and a spotlight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..visualization import object_color, overlay_masks
from .effect import Effect
from .mattes import Matte, blend, import_cv2, union
from .parameters import Color, color, number, parameter, truth, whole


@dataclass(frozen=True, eq=False, kw_only=True)
class Overlay(Effect):
    """Each object is tinted in its colour and outlined; see :func:`efficienttam_hf.visualization.overlay_masks`.

    Args:
        alpha: the opacity of the colour, from 0 (invisible) to 1 (opaque).
        contour: whether objects are outlined.
        labels: whether the id of each object is written on it; by default, it is if there are several.
    """

    name: ClassVar[str] = "overlay"
    alpha: float = parameter(0.5, number(0, 1))
    contour: bool = parameter(True, truth)
    labels: bool | None = parameter(None, truth)

    def draw(self, frame: np.ndarray, mattes: Mapping[int, Matte]) -> np.ndarray:
        """Draw the overlay."""
        masks = {object_id: union([matte], frame.shape[:2]) > 127 for object_id, matte in mattes.items()}
        labels = len(masks) > 1 if self.labels is None else self.labels
        return overlay_masks(frame, masks, self.alpha, self.contour, labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Outline(Effect):
    """Each object has an outline; nothing else changes.

    Args:
        color: the colour of the outline; by default, each object has its own.
        width: the width of the line in pixels; by default, 1/150 of the shorter side of the frame.
    """

    name: ClassVar[str] = "outline"
    color: Color | None = parameter(None, color)
    width: int | None = parameter(None, whole(1, 200))

    def draw(self, frame: np.ndarray, mattes: Mapping[int, Matte]) -> np.ndarray:
        """Draw the outlines."""
        cv2 = import_cv2()
        picture = np.array(frame, order="C")
        line = self.width or max(2, round(min(frame.shape[:2]) / 150))
        for object_id, matte in mattes.items():
            is_object = cv2.inRange(matte.values, 128, 255)
            offset = (matte.left, matte.top)
            lines = cv2.findContours(is_object, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=offset)[0]
            cv2.drawContours(picture, lines, -1, self.color or object_color(object_id), line, cv2.LINE_AA)
        return picture


@dataclass(frozen=True, eq=False, kw_only=True)
class Spotlight(Effect):
    """Objects stay as they are, and the rest becomes darker and grey.

    Args:
        dim: how much darker the rest becomes, from 0 (not at all) to 1 (black).
        grey: whether the rest loses its colours.
    """

    name: ClassVar[str] = "spotlight"
    dim: float = parameter(0.5, number(0, 1))
    grey: bool = parameter(True, truth)

    def draw(self, frame: np.ndarray, mattes: Mapping[int, Matte]) -> np.ndarray:
        """Draw the frame with the rest darker."""
        cv2 = import_cv2()
        rest = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if self.grey else np.ascontiguousarray(frame)
        rest = cv2.convertScaleAbs(rest, alpha=1 - self.dim)
        if self.grey:
            rest = cv2.cvtColor(rest, cv2.COLOR_GRAY2RGB)
        return blend(rest, frame, union(mattes.values(), frame.shape[:2]))
