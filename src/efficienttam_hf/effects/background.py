"""Effects that keep objects and change or remove the rest: blurred or replaced background, cut-out, mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .effect import Effect
from .mattes import Matte, blend, import_cv2, plain, union
from .parameters import Color, color, number, parameter, picture


GREEN = (0, 177, 64)  # chroma key green
RIM = 4  # pixels around a cut-out that keep their colour, because video codecs mix the colours of neighbours


@dataclass(frozen=True, eq=False, kw_only=True)
class BlurBackground(Effect):
    """The background is out of focus. Colours of the objects do not bleed into it.

    Args:
        sigma: the strength: the standard deviation of the Gaussian in pixels; by default, 1/50 of the shorter side.
    """

    name: ClassVar[str] = "blur-background"
    sigma: float | None = parameter(None, number(0.5, 500))

    def draw(self, frame: np.ndarray, mattes: Mapping[int, Matte]) -> np.ndarray:
        """Draw the frame with the background blurred."""
        values = union(mattes.values(), frame.shape[:2])
        sigma = self.sigma or max(2.0, min(frame.shape[:2]) / 50)
        return blend(_blurred_without(frame, values, sigma), frame, values)


def _blurred_without(frame: np.ndarray, values: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a frame as if the object, whose matte has these values, were not there.

    Each pixel becomes the weighted mean of the background around it. A strong blur has no fine detail, so it is
    computed on a smaller picture.
    """
    cv2 = import_cv2()
    height, width = values.shape
    scale = min(1.0, 2.5 / sigma)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    is_background = cv2.inRange(values, 0, 127)
    visible = cv2.copyTo(np.ascontiguousarray(frame), is_background)
    total = cv2.resize(visible, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    share = cv2.resize(is_background, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    total, share = (cv2.GaussianBlur(one, (0, 0), sigma * scale) for one in (total, share))
    # Far inside a large object there is no background in reach; the object covers what is computed there.
    mean = np.minimum(total / np.maximum(share, 1e-3)[..., None], 255).astype(np.uint8)
    return cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True, eq=False, kw_only=True)
class ReplaceBackground(Effect):
    """The background is a colour or a picture.

    Args:
        color: the colour.
        image: the picture, or the path of an image file; it is scaled and cropped to cover the frame. If it is given,
            the colour is not used.
    """

    name: ClassVar[str] = "replace-background"
    color: Color = parameter((255, 255, 255), color)
    image: np.ndarray | None = parameter(None, picture)

    def draw(self, frame: np.ndarray, mattes: Mapping[int, Matte]) -> np.ndarray:
        """Draw the objects on the background."""
        size = frame.shape[:2]
        background = plain(size, self.color) if self.image is None else self._fitted(self.image, size)
        return blend(background, frame, union(mattes.values(), size))

    def _fitted(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the picture at the size of the frame; the last one is kept, for the other frames of a video."""
        fitted: np.ndarray | None = self.__dict__.get("_last")
        if fitted is None or fitted.shape[:2] != size:
            fitted = _covering(image, size)
            object.__setattr__(self, "_last", fitted)
        return fitted


def _covering(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop the middle of a picture to the proportions of (height, width), and scale it to that size."""
    cv2 = import_cv2()
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = min(round(size[0] / scale), image.shape[0]), min(round(size[1] / scale), image.shape[1])
    height, width = max(height, 1), max(width, 1)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    middle = np.ascontiguousarray(image[top : top + height, left : left + width])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(middle, (size[1], size[0]), interpolation=method)


@dataclass(frozen=True, eq=False, kw_only=True)
class GreenScreen(Effect):
    """The background is green, for programs that remove a colour.

    Args:
        color: another colour, for green objects.
    """

    name: ClassVar[str] = "green-screen"
    color: Color = parameter(GREEN, color)

    def draw(self, frame: np.ndarray, mattes: Mapping[int, Matte]) -> np.ndarray:
        """Draw the objects on green."""
        return blend(plain(frame.shape[:2], self.color), frame, union(mattes.values(), frame.shape[:2]))


@dataclass(frozen=True, eq=False, kw_only=True)
class Cutout(Effect):
    """The background is transparent: the alpha channel is the matte of the objects.

    Colours are not premultiplied. Where the picture is transparent it is black, so the background is not hidden in the
    file; only a rim of 4 pixels around the objects keeps its colours, because codecs mix neighbouring colours.
    """

    name: ClassVar[str] = "cutout"
    channels: ClassVar[int] = 4

    def draw(self, frame: np.ndarray, mattes: Mapping[int, Matte]) -> np.ndarray:
        """Return the frame with an alpha channel."""
        cv2 = import_cv2()
        values = union(mattes.values(), frame.shape[:2])
        kept = cv2.dilate(values, np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8))
        colors = cv2.copyTo(np.ascontiguousarray(frame), kept)
        return np.asarray(cv2.merge([*cv2.split(colors), values]))


@dataclass(frozen=True, eq=False, kw_only=True)
class BlackAndWhite(Effect):
    """The mask as a picture: objects are white, the background is black."""

    name: ClassVar[str] = "mask"

    def draw(self, frame: np.ndarray, mattes: Mapping[int, Matte]) -> np.ndarray:
        """Draw the mask."""
        cv2 = import_cv2()
        return np.asarray(cv2.cvtColor(union(mattes.values(), frame.shape[:2]), cv2.COLOR_GRAY2RGB))
