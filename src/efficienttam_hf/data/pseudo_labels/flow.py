"""Dense optical flow, to carry a mask from one frame to the next: DIS of OpenCV, at a small size.

The flow is what an object does between two frames, near enough to say where the teacher is to look; the teacher then
draws the mask. Frames between two labelled ones are used as stepping stones, for DIS follows short ways better.
"""

from __future__ import annotations

from typing import Any

import numpy as np


__all__ = ["carry_mask", "flow_between", "small_grey"]

FLOW_SIDE = 384  # longer side, in pixels, of the pictures that flow is computed on


def small_grey(image: np.ndarray) -> np.ndarray:
    """uint8 (h, w) grey, its longer side at most `FLOW_SIDE`, of uint8 (height, width, 3) RGB."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = FLOW_SIDE / max(grey.shape)
    if scale >= 1:
        return grey
    width, height = (max(16, round(side * scale)) for side in grey.shape[::-1])
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def flow_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Where each pixel of `target` was in `source`: float32 (h, w, 2), the displacement in pixels.

    Args:
        source, target: uint8 (h, w), from `small_grey`.
    """
    import cv2

    algorithms: Any = cv2  # whose stubs lack this one
    return algorithms.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(target, source, None)


def carry_mask(mask: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """A mask of the source frame as it lies in the target frame.

    Args:
        mask: bool (height, width).
        flow: from `flow_between`, at its own size.

    Returns:
        bool (height, width). What comes in from outside of the frame is not of the mask.
    """
    import cv2

    height, width = flow.shape[:2]
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = cv2.remap(small, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderValue=0)
    return cv2.resize(moved, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
