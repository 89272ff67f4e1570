"""Prompts as users give them to the processors, as arrays in the pixels of the network's input: NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..prompt_checks import check_box, check_mask, check_points
from ..tracking_session import FramePrompts
from .arrays import resize


SHAPES = {
    "points": "[[[[x, y], ...] an object]]",
    "labels": "[[[label, ...] an object]]",
    "boxes": "[[[x0, y0, x1, y1] an object]]",
}


def point_prompts(
    ids: list[int],
    input_points: Any,
    input_labels: Any,
    input_boxes: Any,
    size: tuple[int, int],
    input_size: tuple[int, int],
) -> list[FramePrompts]:
    """Points and boxes of one frame, nested as the processor takes them, an item an object.

    Args:
        ids: the objects, for messages.
        size, input_size: (height, width) of the frame and of the network's input.

    Raises:
        ValueError: for anything that does not fit, in the user's pixels.
    """
    if (input_points is None) != (input_labels is None):
        raise ValueError("points and labels must be provided together")
    points = _per_object(input_points, "points", len(ids))
    labels = _per_object(input_labels, "labels", len(ids))
    boxes = _per_object(input_boxes, "boxes", len(ids))
    scale = np.array(input_size[::-1], np.float32)
    prompts = []
    for i, object_id in enumerate(ids):
        where = f" for object {object_id}"
        object_points, object_labels = (points[i], labels[i]) if points is not None else ([], [])
        check_points(object_points, object_labels, size, where)
        kept = [(p, label) for p, label in zip(object_points, object_labels, strict=True) if label != -10]
        if boxes is not None:
            check_box(boxes[i], size, where)
            x0, y0, x1, y1 = boxes[i]
            kept = [((x0, y0), 2), ((x1, y1), 3), *kept]
        if not kept:
            raise ValueError(f"There is no point{where}: each object of a call needs a point or a box.")
        # Divide first, as the published code does: the same rounding.
        coordinates = np.array([[p for p, _ in kept]], np.float32) / np.array(size[::-1], np.float32) * scale
        prompts.append(FramePrompts(coordinates, np.array([[label for _, label in kept]], np.int64)))
    return prompts


def mask_prompts(
    ids: list[int], input_masks: Any, size: tuple[int, int] | None, input_size: tuple[int, int]
) -> list[FramePrompts]:
    """Masks of one frame, one an object, at the network's input size.

    Raises:
        ValueError: for other numbers of masks and objects, or a mask that does not fit; see `check_mask`.
    """
    if isinstance(input_masks, np.ndarray):
        input_masks = [input_masks] if input_masks.ndim == 2 or len(ids) == 1 else list(input_masks)
    if len(input_masks) != len(ids):
        raise ValueError(f"Number of object ids ({len(ids)}) does not match number of masks ({len(input_masks)})")
    prompts = []
    for object_id, mask in zip(ids, input_masks, strict=True):
        mask = check_mask(mask, size, f" for object {object_id}").astype(np.float32)
        if mask.shape != tuple(input_size):
            mask = (resize(mask, input_size, antialias=True) >= 0.5).astype(np.float32)
        prompts.append(FramePrompts(mask=mask[None, None]))
    return prompts


def _per_object(value: Any, name: str, count: int) -> list | None:
    """One frame's prompts as a list with an item an object."""
    if value is None:
        return None
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if not (isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple)):
        raise ValueError(f"The {name} of one frame are nested as {SHAPES[name]}; got {value!r}.")
    if len(value[0]) != count:
        raise ValueError(f"Number of object ids ({count}) does not match number of {name} ({len(value[0])})")
    try:
        return [np.asarray(item, np.float64).tolist() for item in value[0]]
    except (TypeError, ValueError) as error:
        raise ValueError(f"The {name} of one frame are nested as {SHAPES[name]}; got {value!r}.") from error
