"""Region similarity J and boundary accuracy F of two masks, the metrics of DAVIS.

J is the share of the area that two masks have in common, F how much of their outlines lies close together. They are
defined in Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016,
section 5); what the paper leaves open (which pixels are an outline, how far is close, what an empty mask scores) is as
in the evaluator of DAVIS-2017, whose numbers these are.

All of the work on outlines happens within the bounding box of both masks. OpenCV is imported where it is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import numpy as np


__all__ = ["ABSENT", "Agreement", "agreement", "boundary_accuracy", "region_similarity"]


def import_cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise ImportError("Evaluation needs OpenCV: pip install efficienttam-hf[eval].") from error
    return cv2


@dataclass(frozen=True)
class Agreement:
    """How well the prediction of an object agrees with the truth in one frame.

    Attributes:
        j, f: region similarity and boundary accuracy, 0 to 1.
        in_truth, in_prediction: whether either shows the object at all.
    """

    j: float
    f: float
    in_truth: bool
    in_prediction: bool


# Of an object that neither shows.
ABSENT = Agreement(1.0, 1.0, False, False)


def agreement(predicted: np.ndarray, truth: np.ndarray, tolerance: float = 0.008) -> Agreement:
    """Both measures at once, in less time than one after the other.

    Args:
        predicted, truth: bool, or integers that are 0 outside the object, ``(height, width)``.
        tolerance: see `boundary_accuracy`.

    Raises:
        ValueError: masks of other shapes or types.
        ImportError: OpenCV is not installed.
    """
    cv2 = import_cv2()
    predicted, truth = _checked(predicted, truth)
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    around = _around(cv2, predicted, truth)
    predicted, truth = predicted[around], truth[around]
    areas = [cv2.countNonZero(mask.view(np.uint8)) for mask in (predicted, truth, predicted & truth)]
    union = areas[0] + areas[1] - areas[2]
    if not union:
        return ABSENT
    return Agreement(areas[2] / union, _f(cv2, predicted, truth, radius), bool(areas[1]), bool(areas[0]))


def region_similarity(predicted: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union. Two empty masks agree: 1.

    Args:
        predicted, truth: bool, or integers that are 0 outside the object, ``(height, width)``.

    Returns:
        0 to 1.

    Raises:
        ValueError: masks of other shapes or types.
    """
    predicted, truth = _checked(predicted, truth)
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def boundary_accuracy(predicted: np.ndarray, truth: np.ndarray, tolerance: float = 0.008) -> float:
    """F: the harmonic mean of the shares of either outline that lie close to the other.

    Precision is the share of the predicted outline within reach of the true one, recall the reverse. Two masks without
    an outline agree: 1. If only one has none, F is 0.

    Args:
        predicted, truth: bool, or integers that are 0 outside the object, ``(height, width)``.
        tolerance: reach as a share of the image's diagonal; rounded up to whole pixels (8 at 854x480).

    Returns:
        0 to 1.

    Raises:
        ValueError: masks of other shapes or types.
        ImportError: OpenCV is not installed.
    """
    return agreement(predicted, truth, tolerance).f


def _around(cv2: ModuleType, predicted: np.ndarray, truth: np.ndarray) -> tuple[slice, slice]:
    """Where either mask is, and a pixel more on each side: outlines lie to the top left of where masks end."""
    left, top, width, height = cv2.boundingRect((predicted | truth).view(np.uint8))
    return np.s_[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]


def _f(cv2: ModuleType, predicted: np.ndarray, truth: np.ndarray, radius: int) -> float:
    """F of masks that are cut out, with outlines that match within `radius` pixels."""
    predicted_outline, true_outline = (_outline(cv2, mask) for mask in (predicted, truth))
    predicted_length, true_length = cv2.countNonZero(predicted_outline), cv2.countNonZero(true_outline)
    if not predicted_length or not true_length:
        return float(predicted_length == true_length)
    disk = _disk(radius)
    precision = cv2.countNonZero(predicted_outline & cv2.dilate(true_outline, disk)) / predicted_length
    recall = cv2.countNonZero(true_outline & cv2.dilate(predicted_outline, disk)) / true_length
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _outline(cv2: ModuleType, mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower right neighbour, uint8 of 0 and 1 in the mask's shape.

    Repeating the last row and column makes the image's edge no outline: what DAVIS takes from the Berkeley benchmark's
    `seg2bmap`.
    """
    window = np.ones((2, 2), np.uint8)
    mask = np.ascontiguousarray(mask).view(np.uint8)
    return cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, window, anchor=(0, 0), borderType=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=8)
def _disk(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def _checked(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as contiguous bool arrays."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    for what, mask in (("predicted", predicted), ("true", truth)):
        if mask.ndim != 2 or mask.dtype.kind not in "bui" or mask.size == 0:
            raise ValueError(
                f"The {what} mask must be bool of shape (height, width), got {mask.dtype} {mask.shape}; "
                "threshold logits at 0 first."
            )
    if predicted.shape != truth.shape:
        raise ValueError(
            f"The predicted mask has height and width {predicted.shape}, the true one {truth.shape}; "
            "bring predictions to the size of the annotation."
        )
    return np.ascontiguousarray(predicted, dtype=bool), np.ascontiguousarray(truth, dtype=bool)
