"""How far a model's own scores can be trusted: the predicted IoU and the object score of every scored frame.

A tracker reports two numbers with each mask: the IoU that it expects, and the probability that the object is in the
frame. Memory strategies, applications and people rely on them. Here they are compared with the truth. `reliability`
sorts frames into bins by the reported number, as a reliability diagram does (Guo et al., arXiv 1706.04599). In each
bin, the mean of the reported number should equal what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .results import ObjectResult


__all__ = ["Calibration", "Reliability", "reliability"]

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """A reported number beside what it should be, in bins of equal width from 0 to 1.

    Attributes:
        counts: number of frames in each bin.
        reported: mean reported number of each bin; NaN for an empty bin.
        measured: mean true number of each bin; NaN for an empty bin.
        error: mean absolute difference of the reported and the true number over frames.
        calibration_error: mean absolute difference of `reported` and `measured`, weighted by `counts` (the expected
            calibration error).
    """

    counts: np.ndarray
    reported: np.ndarray
    measured: np.ndarray
    error: float
    calibration_error: float


@dataclass(frozen=True)
class Reliability:
    """The reliability of both scores.

    Attributes:
        iou: the predicted IoU beside J, on frames in which the object is present; `None` without such frames.
        presence: the probability that the object is in the frame, beside 0 or 1; `None` without frames.
        absent_frames: number of scored frames without the object.
        found_absent: the fraction of these on which the model said so (a probability below one half); NaN without any.
        false_alarms: the fraction of frames with the object on which the model said that it is absent; NaN without any.
    """

    iou: Calibration | None
    presence: Calibration | None
    absent_frames: int
    found_absent: float
    false_alarms: float


def reliability(objects: Iterable[ObjectResult]) -> Reliability | None:
    """Compare the scores of all frames of some objects with the truth; `None` if no object has recorded scores."""
    recorded = [found for found in objects if found.presence]
    if not recorded:
        return None
    present = np.concatenate([np.array(found.present, dtype=bool) for found in recorded])
    presence, expected, j = (
        np.concatenate([np.array(getattr(found, name)) for found in recorded])
        for name in ("presence", "predicted_iou", "j")
    )
    said_absent = presence < 0.5
    return Reliability(
        iou=_calibration(expected[present], j[present]),
        presence=_calibration(presence, present.astype(float)),
        absent_frames=int((~present).sum()),
        found_absent=_fraction(said_absent[~present]),
        false_alarms=_fraction(said_absent[present]),
    )


def _calibration(reported: np.ndarray, measured: np.ndarray) -> Calibration | None:
    if not len(reported):
        return None
    reported = np.clip(reported, 0, 1)
    place = np.minimum((reported * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean_reported = np.bincount(place, reported, minlength=BINS) / counts
        mean_measured = np.bincount(place, measured, minlength=BINS) / counts
    filled = counts > 0
    gap = np.abs(mean_reported - mean_measured)[filled]
    return Calibration(
        counts,
        mean_reported,
        mean_measured,
        error=float(np.abs(reported - measured).mean()),
        calibration_error=float((gap * counts[filled]).sum() / counts.sum()),
    )


def _fraction(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
