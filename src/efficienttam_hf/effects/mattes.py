"""Mattes: soft masks, with which pictures are composited.

A matte has values from 0 (background) to 255 (object). It is stored for the object's box only, because most objects are
much smaller than the frame, and every step here costs time per pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from ..visualization import checked_mask


def import_cv2() -> ModuleType:
    """Import OpenCV, or raise ImportError with the name of the extra to install."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("Effects need OpenCV: pip install efficienttam-hf[video].") from error
    return cv2


@dataclass(frozen=True, eq=False)
class Matte:
    """The matte of an object on a frame.

    Attributes:
        left: the first column of the stored part.
        top: the first row of the stored part.
        values: uint8 ``(height, width)``, 0 to 255; outside this part, the matte is 0.
    """

    left: int
    top: int
    values: np.ndarray

    @property
    def box(self) -> tuple[slice, slice]:
        """The rows and columns of the stored part in the frame."""
        height, width = self.values.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def within(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """Return the values of a larger part of the frame, as a new array."""
        height, width = self.values.shape
        values = np.zeros((bottom - top, right - left), np.uint8)
        values[self.top - top :, self.left - left :][:height, :width] = self.values
        return values

    def padded(self, margin: int, size: tuple[int, int]) -> Matte:
        """Return the same matte with zeros around it, as far as the frame reaches; ``size`` is (height, width)."""
        height, width = self.values.shape
        top, bottom = max(0, self.top - margin), min(size[0], self.top + height + margin)
        left, right = max(0, self.left - margin), min(size[1], self.left + width + margin)
        return Matte(left, top, self.within(top, bottom, left, right))


def matte_of_mask(mask: np.ndarray, object_id: int, size: tuple[int, int]) -> Matte | None:
    """Convert a mask to a matte; None if the mask is empty.

    Args:
        mask: bool ``(height, width)``, or integers that are 0 outside the object.
        object_id: the id of the object for messages.
        size: (height, width) of the frame.

    Raises:
        ValueError: if the shape or dtype is another one.
    """
    ones = checked_mask(mask, object_id, *size)
    left, top, width, height = import_cv2().boundingRect(ones)
    if not (width and height):
        return None
    return Matte(left, top, ones[top : top + height, left : left + width] * np.uint8(255))


def grown(matte: Matte, pixels: int, size: tuple[int, int]) -> Matte:
    """Grow a hard matte (of values 0 and 255) by a distance in pixels, or shrink it if ``pixels`` is negative.

    The edge of the frame is no edge of the object: a matte that touches it does not shrink there.
    """
    if pixels == 0:
        return matte
    cv2 = import_cv2()
    wide = matte.padded(max(pixels, 1), size)
    # The distance transform takes the same time for every distance, unlike dilation with a disc.
    inside = wide.values if pixels < 0 else 255 - wide.values
    if inside.all():  # without a zero there is nothing to measure the distance to
        return wide
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    is_object = distance <= pixels if pixels > 0 else distance > -pixels
    return Matte(wide.left, wide.top, is_object.astype(np.uint8) * np.uint8(255))


def feathered(matte: Matte, sigma: float, size: tuple[int, int], covers: bool) -> Matte:
    """Soften the edge of a matte with a Gaussian of ``sigma`` pixels.

    Args:
        matte: the matte.
        sigma: the standard deviation in pixels.
        size: (height, width) of the frame.
        covers: whether no value may become lower, so that the softness lies outside the object.
    """
    if sigma == 0:
        return matte
    cv2 = import_cv2()
    wide = matte.padded(int(np.ceil(3 * sigma)), size)
    soft = cv2.GaussianBlur(wide.values, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return Matte(wide.left, wide.top, np.maximum(soft, wide.values) if covers else soft)


def joined(first: Matte, second: Matte) -> Matte:
    """Return the larger of two mattes at each pixel, for the box around both."""
    (rows, columns), (more_rows, more_columns) = first.box, second.box
    top, bottom = min(rows.start, more_rows.start), max(rows.stop, more_rows.stop)
    left, right = min(columns.start, more_columns.start), max(columns.stop, more_columns.stop)
    around = (top, bottom, left, right)
    return Matte(left, top, np.maximum(first.within(*around), second.within(*around)))


def union(mattes: Iterable[Matte], size: tuple[int, int]) -> np.ndarray:
    """Return the largest of some mattes at each pixel, uint8 ``(height, width)`` of the frame."""
    values = np.zeros(size, np.uint8)
    for matte in mattes:
        np.maximum(values[matte.box], matte.values, out=values[matte.box])
    return values


def plain(size: tuple[int, int], color: tuple[int, int, int]) -> np.ndarray:
    """Return a picture of one colour, uint8 ``(height, width, 3)``."""
    picture = np.empty((*size, 3), np.uint8)
    import_cv2().rectangle(picture, (0, 0), (size[1], size[0]), color, -1)  # several times as fast as np.full
    return picture


def blend(below: np.ndarray, above: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lay a picture over another: ``above`` where the matte is 255, ``below`` where it is 0.

    Args:
        below: uint8 ``(height, width, 3)``.
        above: uint8 ``(height, width, 3)``.
        values: the matte, uint8 ``(height, width)``.

    Returns:
        A new uint8 ``(height, width, 3)``.
    """
    cv2 = import_cv2()
    hard = cv2.inRange(values, 1, 254)
    below, above = np.ascontiguousarray(below), np.ascontiguousarray(above)
    result = cv2.copyTo(above, values, below.copy())
    left, top, width, height = cv2.boundingRect(hard)
    if width and height:  # blending takes longer than copying, and only edges need it
        part = slice(top, top + height), slice(left, left + width)
        weight = values[part].astype(np.float32) / 255
        result[part] = cv2.blendLinear(
            np.ascontiguousarray(above[part]), np.ascontiguousarray(below[part]), weight, 1 - weight
        )
    return result
