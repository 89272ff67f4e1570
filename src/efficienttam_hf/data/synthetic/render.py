"""Draws a layer over others: maps a picture with alpha into a canvas, with perspective and deformation.

Pictures and canvases are uint8 (height, width, 4), premultiplied RGBA: the colours are multiplied by alpha. So blurring
and resampling need no special treatment of edges, and one rule composes all pictures. Only the pixels that a picture
can reach are processed, and deformations are computed on a coarse grid, because most of a clip's time is spent here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np


__all__ = ["Deformation", "Patch", "lay_over", "motion_blur", "warp"]


# The distance in pixels between the points at which a deformation is computed.
GRID = 8


@dataclass
class Deformation:
    """A displacement of the points of a picture, smooth in space and time.

    Waves displace points to and fro. Bends rotate everything on one side of a joint, as limbs and necks do. Positions
    are relative to the picture's middle, in units of its longer side.

    Attributes:
        waves: (K, 6): amplitude in x and y, wave vector in x and y in radians, phase, radians per frame.
        bends: (J, 7): joint in x and y, unit vector in x and y to the side that turns, largest angle, phase, radians
            per frame.
    """

    waves: np.ndarray
    bends: np.ndarray

    @property
    def reach(self) -> float:
        """The largest distance that a point can move."""
        return float(np.hypot(self.waves[:, 0], self.waves[:, 1]).sum() + np.abs(self.bends[:, 4]).sum() * 0.5)

    def source(self, x: np.ndarray, y: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the points of the picture that are seen at (x, y) at a time in frames."""
        for joint_x, joint_y, toward_x, toward_y, largest, phase, rate in self.bends.tolist():
            dx, dy = x - joint_x, y - joint_y
            side = np.clip((dx * toward_x + dy * toward_y) / 0.2 + 0.5, 0, 1)
            angle = (largest * math.sin(phase + rate * time)) * side
            cos, sin = np.cos(angle), np.sin(angle)
            x, y = joint_x + cos * dx + sin * dy, joint_y + cos * dy - sin * dx
        out_x, out_y = x, y
        for push_x, push_y, wave_x, wave_y, phase, rate in self.waves.tolist():
            wave = np.sin(wave_x * x + wave_y * y + (phase + rate * time))
            out_x, out_y = out_x + push_x * wave, out_y + push_y * wave
        return out_x, out_y


@dataclass
class Patch:
    """A picture at its place in a canvas.

    Attributes:
        image: uint8 (h, w, 4), premultiplied RGBA.
        left, top: the position of its top left pixel in the canvas.
    """

    image: np.ndarray
    left: int
    top: int

    def inside(self, height: int, width: int) -> Patch | None:
        """Return the part inside a canvas, or `None` if there is none."""
        image_height, image_width = self.image.shape[:2]
        left, top = max(0, self.left), max(0, self.top)
        right, bottom = min(width, self.left + image_width), min(height, self.top + image_height)
        if left >= right or top >= bottom:
            return None
        return Patch(self.image[top - self.top : bottom - self.top, left - self.left : right - self.left], left, top)


def warp(
    image: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    deformation: Deformation | None = None,
    time: float = 0.0,
    beyond: int = 0,
    border: int = cv2.BORDER_CONSTANT,
) -> Patch | None:
    """Map a picture into a canvas.

    Args:
        image: uint8 (h, w, C).
        matrix: (3, 3), the map from its pixels to the canvas' pixels.
        size: (height, width) of the canvas.
        deformation: the deformation of the picture before the map.
        time: the time of the deformation, in frames.
        beyond: the number of pixels outside the canvas that are computed too, for a blur.
        border: OpenCV's rule for pixels beyond the picture; with another rule than constant, the whole canvas is
            filled.

    Returns:
        The part of the canvas that the picture covers; `None` if it covers nothing.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = -beyond, -beyond, size[1] + beyond, size[0] + beyond
    if border == cv2.BORDER_CONSTANT:
        reach = 1 + (deformation.reach * max(height, width) if deformation else 0)
        x0, x1, y0, y1 = -reach, width - 1 + reach, -reach, height - 1 + reach
        corners = matrix @ np.array([[x0, x1, x1, x0], [y0, y0, y1, y1], [1, 1, 1, 1]])
        corners = corners[:2] / corners[2]
        (low_x, low_y), (high_x, high_y) = corners.min(axis=1), corners.max(axis=1)
        left, top = max(left, math.floor(low_x)), max(top, math.floor(low_y))
        right, bottom = min(right, math.ceil(high_x) + 1), min(bottom, math.ceil(high_y) + 1)
        if left >= right or top >= bottom:
            return None
    inverse = cv2.invert(matrix)[1] @ np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
    patch_size = (right - left, bottom - top)
    if deformation is None:
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        if abs(inverse[2, 0]) + abs(inverse[2, 1]) < 1e-9:
            patch = cv2.warpAffine(image, inverse[:2] / inverse[2, 2], patch_size, flags=how, borderMode=border)
        else:
            patch = cv2.warpPerspective(image, inverse, patch_size, flags=how, borderMode=border)
    else:
        where = _map(inverse, patch_size, (height, width), deformation, time)
        patch = cv2.remap(image, where, None, cv2.INTER_LINEAR, borderMode=border)  # type: ignore[call-overload]  # one map
    return Patch(patch, left, top)


def _map(
    inverse: np.ndarray, size: tuple[int, int], image_size: tuple[int, int], deformation: Deformation, time: float
) -> np.ndarray:
    """Return the source of each pixel of a patch, float32 (height, width, 2)."""
    # There is one more cell on every side, because enlarging only interpolates between the middles of cells.
    cells_x, cells_y = -(-size[0] // GRID) + 2, -(-size[1] // GRID) + 2
    x = (np.arange(cells_x, dtype=np.float32) - 0.5) * GRID - 0.5
    y = ((np.arange(cells_y, dtype=np.float32) - 0.5) * GRID - 0.5)[:, None]
    a = inverse.astype(np.float32)
    depth = a[2, 0] * x + a[2, 1] * y + a[2, 2]
    height, width = image_size
    scale, middle_x, middle_y = max(height, width), (width - 1) / 2, (height - 1) / 2
    u = ((a[0, 0] * x + a[0, 1] * y + a[0, 2]) / depth - middle_x) / scale
    v = ((a[1, 0] * x + a[1, 1] * y + a[1, 2]) / depth - middle_y) / scale
    u, v = deformation.source(u, v, time)
    coarse = cv2.merge((u * scale + middle_x, v * scale + middle_y))
    fine = cv2.resize(coarse, (cells_x * GRID, cells_y * GRID), interpolation=cv2.INTER_LINEAR)
    return fine[GRID : GRID + size[1], GRID : GRID + size[0]]


def lay_over(canvas: np.ndarray, patch: Patch) -> None:
    """Draw a patch, which must be inside the canvas, over the canvas in place."""
    height, width = patch.image.shape[:2]
    under = canvas[patch.top : patch.top + height, patch.left : patch.left + width]
    clear = cv2.bitwise_not(cv2.extractChannel(patch.image, 3))
    under[:] = cv2.add(cv2.multiply(under, cv2.merge((clear, clear, clear, clear)), scale=1 / 255), patch.image)


def motion_blur(image: np.ndarray, motion: tuple[float, float]) -> np.ndarray:
    """Blur a picture along a line of `motion` pixels, (x, y), equally to both sides."""
    half = math.hypot(*motion) / 2
    if half < 0.6:
        return image
    radius = math.ceil(half)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    count = 4 * radius + 1
    steps = np.linspace(-0.5, 0.5, count)
    x, y = radius + steps * motion[0], radius + steps * motion[1]
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right_part, lower_part = x - left, y - top
    for column, row, part in (
        (left, top, (1 - right_part) * (1 - lower_part)),
        (left + 1, top, right_part * (1 - lower_part)),
        (left, top + 1, (1 - right_part) * lower_part),
        (left + 1, top + 1, right_part * lower_part),
    ):
        inside = (column <= 2 * radius) & (row <= 2 * radius)
        np.add.at(kernel, (row[inside], column[inside]), part[inside])
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
