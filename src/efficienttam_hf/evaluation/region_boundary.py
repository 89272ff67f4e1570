"""Region similarity J and boundary accuracy F of two masks, the metrics of DAVIS.

J is the intersection over union of two masks; F measures how much of their outlines is close together. They are defined
in Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016, section
5). The paper does not define which pixels are an outline, which distance is close, and the score of an empty mask; here
these are as in the evaluator of DAVIS-2017, and the scores agree with it.

Outlines are computed within the bounding box of both masks. OpenCV is imported where it is used.
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
    """The agreement between the prediction of an object and the truth in one frame.

    Attributes:
        j, f: region similarity and boundary accuracy, from 0 to 1.
        in_truth, in_prediction: whether the truth and the prediction show the object at all.
    """

    j: float
    f: float
    in_truth: bool
    in_prediction: bool


# The agreement for an object that neither shows.
ABSENT = Agreement(1.0, 1.0, False, False)


def agreement(predicted: np.ndarray, truth: np.ndarray, tolerance: float = 0.008) -> Agreement:
    """Compute J and F together, in less time than one after the other.

    Args:
        predicted, truth: bool, or integers that are 0 outside the object, ``(height, width)``.
        tolerance: see `boundary_accuracy`.

    Raises:
        ValueError: if the masks have other shapes or types.
        ImportError: if OpenCV is not installed.
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
    """Compute J, the intersection over union. For two empty masks, it is 1.

    Args:
        predicted, truth: bool, or integers that are 0 outside the object, ``(height, width)``.

    Returns:
        J, from 0 to 1.

    Raises:
        ValueError: if the masks have other shapes or types.
    """
    predicted, truth = _checked(predicted, truth)
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def boundary_accuracy(predicted: np.ndarray, truth: np.ndarray, tolerance: float = 0.008) -> float:
    """Compute F, the harmonic mean of the precision and the recall of the predicted outline.

    Precision is the fraction of the predicted outline that is within the tolerance of the true outline; recall is the
    fraction of the true outline that is within the tolerance of the predicted one. If neither mask has an outline, F is
    1; if only one has none, F is 0.

    Args:
        predicted, truth: bool, or integers that are 0 outside the object, ``(height, width)``.
        tolerance: distance as a fraction of the image's diagonal; it is rounded up to whole pixels (8 at 854x480).

    Returns:
        F, from 0 to 1.

    Raises:
        ValueError: if the masks have other shapes or types.
        ImportError: if OpenCV is not installed.
    """
    return agreement(predicted, truth, tolerance).f


def _around(cv2: ModuleType, predicted: np.ndarray, truth: np.ndarray) -> tuple[slice, slice]:
    """The bounding box of both masks with one more pixel on each side, because outlines lie to the top left."""
    left, top, width, height = cv2.boundingRect((predicted | truth).view(np.uint8))
    return np.s_[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]


def _f(cv2: ModuleType, predicted: np.ndarray, truth: np.ndarray, radius: int) -> float:
    """Compute F of cropped masks, whose outlines match within `radius` pixels."""
    predicted_outline, true_outline = (_outline(cv2, mask) for mask in (predicted, truth))
    predicted_length, true_length = cv2.countNonZero(predicted_outline), cv2.countNonZero(true_outline)
    if not predicted_length or not true_length:
        return float(predicted_length == true_length)
    disk = _disk(radius)
    precision = cv2.countNonZero(predicted_outline & cv2.dilate(true_outline, disk)) / predicted_length
    recall = cv2.countNonZero(true_outline & cv2.dilate(predicted_outline, disk)) / true_length
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _outline(cv2: ModuleType, mask: np.ndarray) -> np.ndarray:
    """The pixels that differ from their right, lower or lower right neighbour, uint8 of 0 and 1 in the mask's shape.

    The last row and column are repeated, so that the image's edge is not an outline. DAVIS takes this from `seg2bmap`
    of the Berkeley benchmark.
    """
    window = np.ones((2, 2), np.uint8)
    mask = np.ascontiguousarray(mask).view(np.uint8)
    return cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, window, anchor=(0, 0), borderType=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=8)
def _disk(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def _checked(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert both masks to contiguous bool arrays."""
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
