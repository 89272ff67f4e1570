"""The prompt of each object on its first frame: its mask, its box, or simulated clicks.

These are the prompts of the paper's Tables 1 and 2, simulated as in SAM 2 (arXiv 2408.00714, sections 5 and F.1). The
first click is at the object's centre. Each further click corrects the previous mask, at the centre of its largest wrong
region. The centre of a region is the pixel farthest from its boundary, and the largest region is the one whose centre
is farthest from the boundary. Training draws its clicks at random, in `training.simulated_user`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from .prompt_kinds import PROMPTS, Prompt, check_prompt
from .region_boundary import import_cv2
from .tracker import TrackingModel, TrackingProcessor, masks_of


__all__ = ["PROMPTS", "Prompt", "center_click", "check_prompt", "correcting_click", "prompt_objects", "tight_box"]


def center_click(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of the pixel of a mask that is farthest from its boundary, to which the image's edge belongs.

    `mask` is bool (height, width), not empty.
    """
    return _deepest_pixel(mask)[1]


def correcting_click(truth: np.ndarray, predicted: np.ndarray) -> tuple[tuple[int, int], bool] | None:
    """Simulate the click with which a user would correct a prediction: (x, y), and whether it is on the object.

    Args:
        truth, predicted: bool (height, width).

    Returns:
        The centre of the largest wrong region. The click is positive if the region was missed and negative if it was
        wrongly predicted. `None` if there is no error.
    """
    missed, too_much = _deepest_pixel(truth & ~predicted), _deepest_pixel(predicted & ~truth)
    if missed[0] == too_much[0] == 0:
        return None
    return (missed[1], True) if missed[0] > too_much[0] else (too_much[1], False)


def _deepest_pixel(region: np.ndarray) -> tuple[float, tuple[int, int]]:
    """The largest distance of a pixel from the region's boundary (0 if the region is empty), and its (x, y)."""
    cv2 = import_cv2()
    inside = np.pad(region, 1).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return float(distance[y, x]), (int(x), int(y))


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x0, y0, x1, y1) of a mask's outermost pixels, as in SAM 2, but at least one pixel wide and high.

    `mask` is bool (height, width), not empty.
    """
    left, top, width, height = import_cv2().boundingRect(mask.astype(np.uint8))
    return left, top, left + max(1, width - 1), top + max(1, height - 1)


def prompt_objects(
    model: TrackingModel,
    processor: TrackingProcessor,
    session: Any,
    frame_idx: int,
    masks: Mapping[int, np.ndarray],
    prompt: str,
) -> None:
    """Prompt objects on the current frame of a session, and segment them there.

    Clicks are added in rounds. An object whose mask has no error gets no further clicks.

    Args:
        model, processor: the model and the processor of the session.
        session: the session.
        frame_idx: the current frame of the session, which is not tracked yet.
        masks: the masks of the objects on that frame, bool (height, width), by object id; none is empty.
        prompt: one of `PROMPTS`.
    """
    object_ids, truth = list(masks), list(masks.values())
    size = truth[0].shape
    add = partial(processor.add_inputs_to_inference_session, session, frame_idx)
    if prompt == "mask":
        add(object_ids, input_masks=truth)
    elif prompt == "box":
        add(object_ids, input_boxes=[[list(tight_box(mask)) for mask in truth]])
    else:
        points = [[list(center_click(mask))] for mask in truth]
        add(object_ids, input_points=[points], input_labels=[[[1]] * len(truth)])
    output = model.segment_prompts(session, frame_idx)

    corrections = int(prompt.removesuffix("-click")) - 1 if prompt.endswith("-click") else 0
    for _ in range(corrections):
        by_id = masks_of(processor, output, size)
        clicks = {i: click for i, mask in masks.items() if (click := correcting_click(mask, by_id[i])) is not None}
        if not clicks:
            return
        points = [[list(point)] for point, _ in clicks.values()]
        labels = [[int(positive)] for _, positive in clicks.values()]
        add(list(clicks), input_points=[points], input_labels=[labels], clear_old_inputs=False)
        output = model.segment_prompts(session, frame_idx)
