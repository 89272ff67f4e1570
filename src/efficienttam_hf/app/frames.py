"""Scales frames and images down to a maximum size before they are processed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np


def limited_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """Scale (height, width) down so that the longer side is at most `max_side`.

    Raises:
        ValueError: if `max_side` is too small for an image.
    """
    if max_side is None:
        return size
    if max_side < 16:
        raise ValueError(f"--max-side must be at least 16 pixels, got {max_side}.")
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale an RGB image (height, width, 3) down to `size`, (height, width)."""
    if image.shape[:2] == size:
        return image
    import cv2

    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


class ResizedFrames:
    """A `FrameSource` whose frames are scaled to `height` and `width` as they are read.

    The last few frames are kept, because a frame is first tracked and later drawn.
    """

    def __init__(self, source: Any, size: tuple[int, int]):
        self._source = source
        self.height, self.width = size
        self._read = lru_cache(maxsize=4)(lambda index: resize_image(source[index], size))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._read(index)
