"""Dense optical flow, which carries a mask from one frame to the next: OpenCV's DIS, at a small size.

The flow approximates the movement between two frames well enough to show the teacher where to look; the teacher then
draws the mask. Frames between two labelled frames are used as intermediate steps, because DIS estimates small movements
better.
"""

from __future__ import annotations

from typing import Any

import numpy as np


__all__ = ["carry_mask", "flow_between", "small_grey"]

FLOW_SIDE = 384  # the longer side, in pixels, of the pictures from which flow is computed


def small_grey(image: np.ndarray) -> np.ndarray:
    """Convert uint8 (height, width, 3) RGB to uint8 (h, w) grey, whose longer side is at most `FLOW_SIDE`."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = FLOW_SIDE / max(grey.shape)
    if scale >= 1:
        return grey
    width, height = (max(16, round(side * scale)) for side in grey.shape[::-1])
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def flow_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the position in `source` of each pixel of `target`, as a displacement.

    Args:
        source, target: uint8 (h, w), from `small_grey`.

    Returns:
        float32 (h, w, 2), the displacement (x, y) in pixels.
    """
    import cv2

    algorithms: Any = cv2  # the type stubs of OpenCV lack this algorithm
    return algorithms.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(target, source, None)


def carry_mask(mask: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Carry a mask of the source frame to the target frame.

    Args:
        mask: bool (height, width).
        flow: the output of `flow_between`, at its own size.

    Returns:
        bool (height, width). Pixels that come from outside of the frame are not part of the mask.
    """
    import cv2

    height, width = flow.shape[:2]
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = cv2.remap(small, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderValue=0)
    return cv2.resize(moved, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
