"""What a detector is, and what is done to its detections before anything relies on them.

A detector is any callable that takes a frame and returns `Detection`s. It may be a model of Transformers
(`transformers_detectors.py`) or a user's function, so nothing that it returns is trusted: `usable_detections` clips
boxes to the frame, leaves out those that are no place in it, and bounds their number.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..prompts import Box
from ..safe_names import one_line, shown


__all__ = ["Detection", "DetectionError", "Detector", "NothingFoundError", "checked_texts", "usable_detections"]

LEAST_SIDE = 1.0  # pixels; a narrower box has no pixel of its own
MOST_CONSIDERED = 2000  # detections of a frame that are looked at, the best first; detectors give at most about 900
MOST_KEPT = 100  # detections of a frame that are left after non-maximum suppression; the mask decoder runs for each
SAME_BOX_IOU = 0.8  # boxes that overlap more are one object; masks decide about the others (`track_book.py`)
LONGEST_TEXT = 200  # characters of a text or a label


class DetectionError(ValueError):
    """A detector cannot be loaded or used, or returns something that is not a detection."""


class NothingFoundError(DetectionError):
    """No object was found on a frame on which objects were looked for.

    Attributes:
        looks_for: what was looked for.
    """

    def __init__(self, looks_for: str, frame_idx: int) -> None:
        super().__init__(
            f"No object was found on frame {frame_idx}; looked for {looks_for}. Lower the threshold "
            "(--detect-threshold), look on another frame (--detect-frame), or give a prompt."
        )
        self.looks_for = looks_for


@dataclass(frozen=True)
class Detection:
    """An object that a detector sees on a frame.

    Attributes:
        box: left, top, right and bottom in pixels of the frame.
        label: what the object is; `None` if the detector does not say.
        score: the detector's confidence, from 0 to 1.
        mask: bool (height, width), the object's pixels, at the size of the frame; `None` if the detector gives none.
    """

    box: tuple[float, float, float, float]
    label: str | None = None
    score: float = 1.0
    mask: np.ndarray | None = None


class Detector(Protocol):
    """Any callable that finds objects on a frame."""

    def __call__(self, frame: np.ndarray) -> Sequence[Detection]:
        """Find the objects on a frame, uint8 (height, width, 3) RGB."""


def checked_texts(texts: Sequence[str]) -> list[str]:
    """Check the texts that are looked for, without spaces around them and without repetitions.

    Raises:
        DetectionError: if there are none, or one is not text, is empty or is very long.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
        raise DetectionError(
            f'What to look for is a list of texts, such as ["a dog", "a red ball"]; got {shown(texts)}.'
        )
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise DetectionError(f'A text to look for says what an object is, such as "a dog"; got {shown(text)}.')
        if len(text) > LONGEST_TEXT:
            raise DetectionError(
                f"A text to look for has at most {LONGEST_TEXT} characters; {shown(text)} has {len(text)}. Give "
                "several short texts, one for each kind of object."
            )
    return list(dict.fromkeys(one_line(text.strip()) for text in texts))


def usable_detections(found: Any, size: tuple[int, int], least_score: float = 0.0) -> list[Detection]:
    """Check what a detector returned for a frame.

    Boxes that reach over the edge are clipped. Detections whose box or score is not finite, whose box is inverted,
    empty or outside the frame, or whose mask is empty or has another size, are left out with a warning that counts
    them. Of boxes that are nearly the same only the best is kept, whatever their labels.

    Args:
        found: what the detector returned.
        size: (height, width) of the frame.
        least_score: detections below this score are left out.

    Returns:
        At most `MOST_KEPT` detections, the best first.

    Raises:
        DetectionError: if `found` is not a sequence of `Detection`s.
    """
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(d, Detection) for d in found):
        listed = isinstance(found, Sequence) and not isinstance(found, str)
        other = next(d for d in found if not isinstance(d, Detection)) if listed else found
        raise DetectionError(f"A detector returns a list of Detection; got {type(other).__name__} {shown(other)}.")
    usable: list[Detection] = []
    problems: Counter[str] = Counter()
    for detection in found:
        checked = _checked(detection, size)
        if isinstance(checked, str):
            problems[checked] += 1
        elif checked.score >= least_score:
            usable.append(checked)
    if problems:
        reasons = ", ".join(f"{count} with {problem}" for problem, count in sorted(problems.items()))
        warnings.warn(f"Some detections are left out: {reasons}.", stacklevel=2)
    usable.sort(key=lambda detection: -detection.score)
    return _without_same_boxes(usable[:MOST_CONSIDERED])[:MOST_KEPT]


def _checked(detection: Detection, size: tuple[int, int]) -> Detection | str:
    """The detection within the frame, or what is wrong with it."""
    height, width = size
    try:
        left, top, right, bottom = (float(value) for value in detection.box)
        score = float(detection.score)
    except (TypeError, ValueError):
        return "a box that is not four numbers or a score that is not a number"
    if not all(map(math.isfinite, (left, top, right, bottom, score))):
        return "a box or a score that is not finite"
    if left >= right or top >= bottom:
        return "an inverted or empty box"
    box = Box(max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if box.x1 - box.x0 < LEAST_SIDE or box.y1 - box.y0 < LEAST_SIDE:
        return "a box that is outside the frame or thinner than a pixel"
    mask = detection.mask
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != size or mask.dtype != bool:
            return "a mask that is not bool or not of the frame's size"
        if not mask.any():
            return "an empty mask"
    label = detection.label
    if label is not None:
        label = one_line(str(label).strip())[:LONGEST_TEXT] or None
    return replace(detection, box=box, score=min(max(score, 0.0), 1.0), label=label, mask=mask)


def _without_same_boxes(detections: list[Detection]) -> list[Detection]:
    """Non-maximum suppression of the detections without masks, which are sorted; masks are compared later."""
    boxed = [i for i, detection in enumerate(detections) if detection.mask is None]
    if len(boxed) < 2:
        return detections
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([detections[i].box for i in boxed], dtype=torch.float32)
    scores = torch.tensor([detections[i].score for i in boxed], dtype=torch.float32)
    kept = {boxed[i] for i in nms(boxes, scores, SAME_BOX_IOU).tolist()}
    return [d for i, d in enumerate(detections) if d.mask is not None or i in kept]
