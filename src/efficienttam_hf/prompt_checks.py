"""Images and prompts as users give them, checked in their own pixels: with NumPy and Pillow alone.

The processors and the tracker that runs on exported graphs without torch (`export/`) accept the same and refuse the
same, in the same words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image


def to_rgb(image: Any) -> np.ndarray:
    """An image of any usual kind as uint8 RGB, (height, width, 3).

    Args:
        image: a PIL image of any mode, or an array or tensor: (H, W), (H, W, 1 | 3 | 4) or (1 | 3 | 4, H, W); uint8,
            uint16 (scaled by 1/257), bool, or floats in [0, 1]. Alpha is dropped.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
            image = np.asarray(image)
            if image.dtype == np.int32:  # how PIL holds 16-bit greyscale in some formats
                image = image.clip(0, 65535).astype(np.uint16)
        else:
            return np.array(image.convert("RGB"))
    if hasattr(image, "detach"):  # a tensor
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"An image is a PIL image, an array or a tensor; got {type(image).__name__}.")
    given = f"an array of shape {image.shape} and type {image.dtype}"
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim == 3 and image.shape[-1] not in (1, 3, 4) and image.shape[0] in (1, 3, 4):
        image = np.moveaxis(image, 0, -1)
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(f"An image has shape (H, W), (H, W, 1 | 3 | 4) or (1 | 3 | 4, H, W); got {given}.")
    if image.dtype == np.uint16:
        image = (image / 257).round().astype(np.uint8)
    elif image.dtype == bool:
        image = image.astype(np.uint8) * 255
    elif np.issubdtype(image.dtype, np.floating):
        if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            raise ValueError(f"An image of floats lies in [0, 1]; got {given} with other values.")
        image = (image * 255).round().astype(np.uint8)
    elif image.dtype != np.uint8:
        raise ValueError(f"An image is of uint8, uint16, bool or floats in [0, 1]; got {given}.")
    image = image[..., :3]
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else np.ascontiguousarray(image)


def check_points(points: Any, labels: Any, size: tuple[int, int], where: str = "") -> None:
    """Check one object's points and labels against a frame of (height, width).

    Args:
        points: K pairs (x, y) in pixels; labels: K numbers or `None`. Pairs labelled -10 (padding) or -1 are passed.
        where: a phrase for messages, e.g. `" for object 3"`.

    Raises:
        ValueError: for coordinates that are not finite or outside the frame, labels that mean nothing, or other counts.
    """
    height, width = size
    labels = [1] * len(points) if labels is None else labels
    if len(points) != len(labels):
        raise ValueError(f"{len(points)} points but {len(labels)} labels{where}: give one label a point.")
    for (x, y), label in zip(points, labels, strict=True):
        if label not in (0, 1, 2, 3, -1, -10):
            raise ValueError(
                f"Label {label}{where} means nothing: 1 is a positive point, 0 a negative one, 2 and 3 are the "
                "top-left and bottom-right corner of a box."
            )
        if label < 0:
            continue
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"Point ({x}, {y}){where} is not a place: coordinates must be finite numbers.")
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(
                f"Point ({x:g}, {y:g}){where} is outside the frame, which is {width} wide and {height} high."
            )


def check_box(box: Sequence[float], size: tuple[int, int], where: str = "") -> None:
    """Check a box (x0, y0, x1, y1) in pixels against a frame of (height, width).

    Raises:
        ValueError: if it is not finite, not inside the frame, or its corners are not top-left and bottom-right.
    """
    height, width = size
    x0, y0, x1, y1 = box
    shown = "({:g}, {:g}, {:g}, {:g})".format(*box)
    if not all(math.isfinite(v) for v in box):
        raise ValueError(f"Box {shown}{where} is not a place: coordinates must be finite numbers.")
    if x0 >= x1 or y0 >= y1:
        raise ValueError(
            f"Box {shown}{where} is empty: it is x0, y0, x1, y1 with x0 < x1 and y0 < y1, top-left corner first."
        )
    if not (0 <= x0 and x1 <= width and 0 <= y0 and y1 <= height):
        raise ValueError(f"Box {shown}{where} is outside the frame, which is {width} wide and {height} high.")


def check_mask(mask: Any, size: tuple[int, int] | None, where: str = "") -> np.ndarray:
    """One object's mask prompt as (height, width) bool.

    Args:
        mask: (height, width), possibly with leading ones; bool, integers (not zero: object) or floats (above 0.5).
        size: (height, width) of the frame, or `None` where it is not known.

    Raises:
        ValueError: for another shape, another size than the frame's, values that are not finite, or an empty mask.
    """
    mask = mask.detach().cpu().numpy() if hasattr(mask, "detach") else np.asarray(mask)
    while mask.ndim > 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim != 2:
        raise ValueError(f"A mask{where} has shape (height, width), got {tuple(mask.shape)}.")
    if size is not None and tuple(mask.shape) != tuple(size):
        raise ValueError(
            f"The mask{where} is {mask.shape[1]}x{mask.shape[0]} pixels, the frame is {size[1]}x{size[0]}. A mask has "
            "the size of its frame."
        )
    if np.issubdtype(mask.dtype, np.floating):
        if not np.isfinite(mask).all():
            raise ValueError(f"The mask{where} has values that are not finite.")
        mask = mask > 0.5
    mask = mask != 0
    if not mask.any():
        raise ValueError(f"The mask{where} is empty. To say that an object has left, add negative points instead.")
    return mask
