"""Bodies: the appearance of things before they are moved. A body is a picture, a turning solid, or a jointed figure.

A body is made once per clip, at about the size at which it is seen, and returns its picture for every frame. Pictures
are premultiplied RGBA (see `render.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from . import shapes, textures
from .options import SyntheticOptions
from .render import lay_over, warp


__all__ = ["Body", "Figure", "Part", "Picture", "Solid", "Wardrobe", "of_cutout", "of_outline", "premultiply", "soften"]


# Empty pixels around every picture, which keep its edges smooth when it is rotated.
FRAME = 2


class Body(Protocol):
    """The interface of all bodies."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture in pixels."""
        ...

    def image(self, time: float) -> np.ndarray:
        """Return the picture at a time in frames: uint8 (height, width, 4), premultiplied RGBA."""
        ...


@dataclass
class Picture:
    """A body whose appearance does not change.

    Attributes:
        pixels: uint8 (height, width, 4), premultiplied RGBA.
    """

    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[:2]

    def image(self, time: float) -> np.ndarray:
        return self.pixels


@dataclass
class Solid:
    """A body that turns in depth: its surface moves within its outline, and the outline changes to another one.

    Attributes:
        outlines: two signed distances to an outline in pixels, positive inside, float32 (height, width).
        surface: uint8 (height, larger width, 3), of which a part is visible.
        light: the output of `relief`, or `None`.
        phase, rate: phase in radians and angular velocity in radians per frame; the body turns to and fro.
    """

    outlines: tuple[np.ndarray, np.ndarray]
    surface: np.ndarray
    light: np.ndarray | None
    phase: float
    rate: float

    @property
    def size(self) -> tuple[int, int]:
        return self.outlines[0].shape

    def image(self, time: float) -> np.ndarray:
        turned = 0.5 + 0.5 * math.sin(self.phase + self.rate * time)
        inside = cv2.addWeighted(self.outlines[0], 1 - turned, self.outlines[1], turned, 0.5)
        alpha = cv2.convertScaleAbs(np.clip(inside, 0, 1), alpha=255)
        height, width = self.size
        # The part of the surface in the middle, with subpixel precision.
        shift = np.array([[1, 0, turned * (self.surface.shape[1] - width)], [0, 1, 0]])
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = premultiply(cv2.warpAffine(self.surface, shift, (width, height), flags=how), alpha)
        return image if self.light is None else lit(image, self.light)


@dataclass
class Part:
    """A part of a figure: a picture that turns around a joint.

    Attributes:
        pixels: the picture, uint8 (height, width, 4), premultiplied RGBA.
        pivot: the point that is placed on the joint, (x, y) in the picture's pixels.
        parent: the number of the part that has the joint; -1 is the figure's canvas.
        joint: (x, y) in the parent's pixels.
        rest, swing: the mean angle and the amplitude of the swing, in radians.
        phase, rate: phase in radians and angular velocity in radians per frame of the swing.
        spin: a constant rotation in radians per frame, such as that of a wheel.
        front: parts with a higher number are in front of parts with a lower one.
    """

    pixels: np.ndarray
    pivot: tuple[float, float]
    parent: int
    joint: tuple[float, float]
    rest: float = 0.0
    swing: float = 0.0
    phase: float = 0.0
    rate: float = 0.0
    spin: float = 0.0
    front: int = 0

    def matrix(self, time: float) -> np.ndarray:
        """Return the map from the part's pixels to its parent's at a time in frames: (3, 3)."""
        angle = self.rest + self.swing * math.sin(self.phase + self.rate * time) + self.spin * time
        cos, sin = math.cos(angle), math.sin(angle)
        (px, py), (jx, jy) = self.pivot, self.joint
        return np.array([[cos, -sin, jx - cos * px + sin * py], [sin, cos, jy - sin * px - cos * py], [0, 0, 1]])


@dataclass
class Figure:
    """Parts that are connected by joints.

    Attributes:
        parts: the parts; each comes after its parent.
        size: (height, width) of the picture in pixels.
    """

    parts: list[Part]
    size: tuple[int, int]

    def image(self, time: float) -> np.ndarray:
        matrices: list[np.ndarray] = []
        for part in self.parts:
            own = part.matrix(time)
            matrices.append(own if part.parent < 0 else matrices[part.parent] @ own)
        canvas = np.zeros((*self.size, 4), np.uint8)
        for part, matrix in sorted(zip(self.parts, matrices, strict=True), key=lambda pair: pair[0].front):
            patch = warp(part.pixels, matrix, self.size)
            if patch is not None:
                lay_over(canvas, patch)
        return canvas


@dataclass
class Wardrobe:
    """The source of the outlines and surfaces of one clip.

    Attributes:
        photos: photographs, uint8 (H, W, 3), the background's first. There are none or at least two, and few, because
            opening them takes time.
        cutout: a function that returns another cutout at each call, uint8 (h, w, 4) RGBA; `None` if there are none.
        options: the parameters of scenes.
        scenery: the background, uint8 (H, W, 3), from which camouflage is cropped.
    """

    photos: list[np.ndarray]
    cutout: Callable[[], np.ndarray] | None
    options: SyntheticOptions
    scenery: np.ndarray | None = None

    def surface(self, rng: np.random.Generator, height: int, width: int, camouflage: bool = False) -> np.ndarray:
        """Return a photographic or procedural surface, uint8 (height, width, 3).

        Args:
            rng: the source of random numbers.
            height, width: the size in pixels.
            camouflage: whether the surface is a crop of the background, if there is one.
        """
        if camouflage and self.scenery is not None:
            return textures.photo_crop(rng, self.scenery, height, width, (0.2, 0.6))
        photo = self.options.photo_surface if self.photos else 0.0
        if rng.random() * (photo + self.options.procedural_surface) < photo:
            # Mostly other photographs than the first, which is the background's: similarity to it is the purpose of
            # camouflage.
            source = self.photos[rng.integers(0 if rng.random() < 0.2 else 1, len(self.photos))]
            return textures.recolour(rng, textures.photo_crop(rng, source, height, width, (0.12, 0.7)))
        return textures.procedural(rng, height, width)

    def clothes(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """Return a surface for a body, of one or several regions, sometimes camouflage: uint8 (height, width, 3)."""
        surface = self.surface(rng, height, width, bool(rng.random() < self.options.camouflage))
        if rng.random() < self.options.regions:
            for _ in range(int(rng.integers(1, 3))):
                surface = textures.blend_regions(rng, surface, self.surface(rng, height, width))
        return surface


def premultiply(surface: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Combine colours (h, w, 3) and alpha (h, w), both uint8, to premultiplied RGBA (h, w, 4)."""
    full = np.full_like(alpha, 255)
    return cv2.multiply(cv2.merge((surface, alpha)), cv2.merge((alpha, alpha, alpha, full)), scale=1 / 255)


def relief(rng: np.random.Generator, alpha: np.ndarray) -> np.ndarray:
    """Compute light from one side on an outline that bulges towards its middle, with darker rims.

    Args:
        rng: the source of random numbers.
        alpha: the outline, uint8 (h, w).

    Returns:
        uint8 (h, w, 4), gains of the channels; 128 leaves a channel unchanged.
    """
    height, width = alpha.shape
    small = (max(4, width // 4), max(4, height // 4))
    shrunk = cv2.resize(alpha, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    bulge = cv2.GaussianBlur(shrunk, (0, 0), max(small) * rng.uniform(0.04, 0.15))
    slope_x, slope_y = cv2.Sobel(bulge, cv2.CV_32F, 1, 0), cv2.Sobel(bulge, cv2.CV_32F, 0, 1)
    steepest = max(1e-3, cv2.norm(slope_x, cv2.NORM_INF), cv2.norm(slope_y, cv2.NORM_INF))
    angle = rng.uniform(0, 2 * math.pi)
    x, y = (np.arange(-1, 1, 2 / side, dtype=np.float32)[:side] for side in small)
    y = y[:, None]
    slanted = (math.cos(angle) * slope_x + math.sin(angle) * slope_y) * (rng.uniform(0, 0.5) / steepest)
    across = rng.uniform(0, 0.3) * (math.cos(angle) * x + math.sin(angle) * y)
    rim = rng.uniform(0, 0.6)
    light = 128 * (1 + slanted + across) * (1 - rim + rim * np.minimum(1, 1.4 * bulge))
    gain = cv2.resize(light.clip(0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.merge((gain, gain, gain, np.full_like(gain, 128)))


def lit(image: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Apply gains from `relief` to a premultiplied picture."""
    alpha = cv2.extractChannel(image, 3)
    # In a premultiplied picture, colours are at most alpha.
    return cv2.min(cv2.multiply(image, light, scale=1 / 128), cv2.merge((alpha, alpha, alpha, alpha)))


def framed(image: np.ndarray) -> np.ndarray:
    """Add the empty border to a picture or an alpha channel."""
    return cv2.copyMakeBorder(image, FRAME, FRAME, FRAME, FRAME, cv2.BORDER_CONSTANT, value=0)


def of_outline(rng: np.random.Generator, alpha: np.ndarray, wardrobe: Wardrobe) -> Body:
    """Make a body from an outline, uint8 (h, w), with a surface of the wardrobe."""
    options = wardrobe.options
    alpha = framed(alpha)
    light = relief(rng, alpha) if rng.random() < options.shading else None
    if rng.random() < options.turning:
        return _solid(rng, alpha, light, wardrobe)
    image = premultiply(wardrobe.clothes(rng, *alpha.shape), alpha)
    return Picture(image if light is None else lit(image, light))


def _solid(rng: np.random.Generator, alpha: np.ndarray, light: np.ndarray | None, wardrobe: Wardrobe) -> Solid:
    """Make a turning solid from an outline with its border."""
    height, width = alpha.shape
    # The second outline is the view from behind, or another shape of about the same size.
    other = cv2.flip(alpha, 1)
    if rng.random() < 0.5:
        blob = shapes.blob(rng, max(height, width) - 2 * FRAME)
        blob = cv2.resize(blob, (width - 2 * FRAME, height - 2 * FRAME), interpolation=cv2.INTER_AREA)
        other = cv2.max(framed(blob), cv2.min(alpha, other))
    surface = wardrobe.clothes(rng, height, round(width * rng.uniform(1.2, 2.5)))
    rate = rng.choice((-1, 1)) * rng.uniform(0.03, 0.3)
    return Solid((_distance(alpha), _distance(other)), surface, light, rng.uniform(0, 7), rate)


def _distance(alpha: np.ndarray) -> np.ndarray:
    """Return the signed distance to an outline in pixels, positive inside, float32 (h, w)."""
    solid = (alpha > 127).astype(np.uint8)
    inside, outside = (cv2.distanceTransform(where, cv2.DIST_L2, 3) for where in (solid, 1 - solid))
    return inside - outside


def of_cutout(rng: np.random.Generator, cutout: np.ndarray, side: int, wardrobe: Wardrobe) -> Body | None:
    """Make a body from a drawing, in its own colours, or with another surface in its outline.

    Args:
        rng: the source of random numbers.
        cutout: uint8 (h, w, 4), RGBA, not premultiplied.
        side: the longer side of the body in pixels.
        wardrobe: the source of surfaces.

    Returns:
        The body; `None` if the drawing cannot be tracked well, such as loose pieces and thin lines, or is a rectangle,
        which is often a framed picture.
    """
    options = wardrobe.options
    scale = side / max(cutout.shape[:2])
    width, height = (max(3, round(extent * scale)) for extent in cutout.shape[1::-1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    own = cv2.resize(premultiply(cutout[..., :3], cutout[..., 3]), (width, height), interpolation=how)
    alpha = cv2.extractChannel(own, 3)
    covered = (alpha > 127).view(np.uint8)
    contours, _ = cv2.findContours(covered, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    area = cv2.countNonZero(covered)
    if not 0.12 < area / (width * height) < 0.97:
        return None
    largest = max(contours, key=cv2.contourArea)
    solid = cv2.drawContours(np.zeros_like(alpha), [largest], -1, 255, cv2.FILLED)
    if cv2.countNonZero(cv2.bitwise_and(covered, solid)) < 0.9 * area:
        return None
    # Real objects are solid: line drawings are filled, and so are most others that get another surface.
    hollow = area < 0.7 * cv2.countNonZero(solid)
    others = (options.photo_surface if wardrobe.photos else 0) + options.procedural_surface
    if not hollow and rng.random() * (options.own_colours + others) < options.own_colours:
        own = framed(own)
        return Picture(lit(own, relief(rng, cv2.extractChannel(own, 3))) if rng.random() < options.shading else own)
    if hollow or rng.random() < 0.7:
        alpha = cv2.max(alpha, cv2.blur(cv2.erode(solid, np.ones((3, 3), np.uint8)), (3, 3)))
    body = of_outline(rng, alpha, wardrobe)
    if isinstance(body, Picture) and rng.random() < 0.3:
        # The drawing's lines and regions become light and dark parts of the new surface.
        lines = cv2.cvtColor(framed(own), cv2.COLOR_RGBA2GRAY) // 2 + 110
        full = np.full_like(lines, 255)
        body.pixels = cv2.multiply(body.pixels, cv2.merge((lines, lines, lines, full)), scale=1 / 255)
    return body


def soften(body: Body, width: float) -> None:
    """Soften a body's edge over a number of pixels, as for hair and things that are out of focus."""
    if isinstance(body, Solid):
        first, second = body.outlines
        body.outlines = first / width, second / width
    elif isinstance(body, Figure):
        for part in body.parts:
            part.pixels = cv2.GaussianBlur(part.pixels, (5, 5), width / 2.5)
    elif isinstance(body, Picture):
        body.pixels = cv2.GaussianBlur(body.pixels, (5, 5), width / 2.5)
