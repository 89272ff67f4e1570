"""Converts the output of a tracker to `supervision.Detections`, for the tools of that library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..images import to_array


__all__ = ["to_supervision"]


def to_supervision(output: Any, size: tuple[int, int], labels: Mapping[int, str] | None = None) -> Any:
    """Convert the output of a frame to `supervision.Detections` with masks, boxes, track ids and scores.

    Objects that are not on the frame (their mask is empty) are left out.

    Args:
        output: an `EfficientTamVideoSegmentationOutput`, or that of `OnnxVideoTracker`.
        size: (height, width) of the frame, to which masks are resized.
        labels: the names of objects by object id, which become `data["class_name"]`.

    Returns:
        `supervision.Detections`: `xyxy` in pixels, `mask` bool (objects, height, width), `tracker_id` the ids of the
        objects, `confidence` the probability that each is on the frame, and `class_id` 0 or the number of its label.

    Raises:
        ImportError: if supervision or OpenCV is not installed.
    """
    try:
        import cv2
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision needs supervision: pip install efficienttam-hf[formats].") from error
    logits = to_array(output.pred_masks).astype(np.float32)[:, 0]
    shape = (int(size[1]), int(size[0]))
    masks = np.array([cv2.resize(own, shape, interpolation=cv2.INTER_LINEAR) > 0 for own in logits], dtype=bool)
    masks = masks.reshape(len(logits), shape[1], shape[0])
    seen = np.flatnonzero(masks.any(axis=(1, 2)))
    ids = np.array(output.object_ids, dtype=int)[seen]
    with np.errstate(over="ignore"):
        scores = 1 / (1 + np.exp(-to_array(output.object_score_logits).astype(np.float32)[seen, 0]))
    names = [(labels or {}).get(int(object_id), "object") for object_id in ids]
    classes = {name: number for number, name in enumerate(sorted(set((labels or {}).values())))}
    boxes = supervision.mask_to_xyxy(masks[seen]).astype(np.float32) if len(seen) else np.zeros((0, 4), np.float32)
    return supervision.Detections(
        xyxy=boxes,
        mask=masks[seen],
        confidence=scores,
        class_id=np.array([classes.get(name, 0) for name in names], dtype=int),
        tracker_id=ids,
        data={"class_name": np.array(names, dtype=np.str_)},
    )
