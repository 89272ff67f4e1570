"""Semi-supervised video object segmentation: an object is shown once, on its first frame, and tracked from there.

One annotated video goes in, scores come out. Frames are streamed through a session: one after another, each decoded,
tracked, scored and let go, so that memory does not grow with the video. A stream also is what the task means for
objects that appear late: before its first frame nobody knows of an object, and no memory of it exists.

Where the frames come from and where the scores go is left to the caller: `davis_folder` does it for a data set on
disk, a training loop for the clips it holds out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..processing_efficienttam import EfficientTamVideoProcessor
from .region_boundary import import_cv2
from .scores import SequenceScorer, SequenceScores


__all__ = ["AnnotatedFrame", "Prompt", "TrackedFrame", "center_click", "tight_box", "track", "track_and_score"]

Prompt = Literal["mask", "click", "box"]

# A frame, uint8 (height, width, 3) in RGB, and for each object id its mask, bool (height, width). An object that is
# not named, or whose mask is empty, is not in the frame.
AnnotatedFrame = tuple[np.ndarray, Mapping[int, np.ndarray]]


@dataclass
class TrackedFrame:
    """A frame, what is true of it and what the tracker says.

    Attributes:
        index: of the frame in the video, from 0.
        frame: uint8 (height, width, 3), RGB.
        truth: for each object id its annotated mask, bool (height, width).
        predicted: for each object prompted so far its tracked mask, bool (height, width). They do not overlap.
        seconds: from the frame to these masks, prompts included.
    """

    index: int
    frame: np.ndarray
    truth: Mapping[int, np.ndarray]
    predicted: dict[int, np.ndarray]
    seconds: float


def center_click(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of the pixel of a mask that is farthest from its boundary, to which the image's edge belongs.

    Where SAM 2's simulated user clicks. `mask` is bool (height, width), not empty.
    """
    cv2 = import_cv2()
    inside = np.pad(mask, 1).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return int(x), int(y)


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) of a mask: its outermost pixels, as SAM 2 draws boxes, but at least a pixel wide and high.

    `mask` is bool (height, width), not empty.
    """
    left, top, width, height = import_cv2().boundingRect(mask.astype(np.uint8))
    return left, top, left + max(1, width - 1), top + max(1, height - 1)


def track(
    model: EfficientTamVideoModel,
    processor: EfficientTamVideoProcessor,
    video: Iterable[AnnotatedFrame],
    prompt: Prompt = "mask",
) -> Iterator[TrackedFrame]:
    """Track each object of a video from the first frame in which it is annotated.

    Args:
        model: in evaluation mode; it runs on its own device, in its own type.
        processor: that of the model.
        video: its frames in order, all of one size.
        prompt: what is shown of an object: its `"mask"`, one `"click"` at its centre, or its `"box"`.

    Yields:
        Every frame, as it is done. Before the first object appears nothing is predicted.

    Raises:
        ValueError: another `prompt`, or frames and masks that do not fit each other.
        ImportError: OpenCV is not installed.
    """
    if prompt not in get_args(Prompt):
        raise ValueError(f"prompt must be one of {', '.join(get_args(Prompt))}, got {prompt!r}.")
    session = processor.init_video_session(inference_device=model.device, dtype=model.dtype, keep_history=False)
    for index, (frame, truth) in enumerate(video):
        size = frame.shape[:2]
        new = {object_id: mask for object_id, mask in truth.items() if object_id not in session.objects and mask.any()}
        prompts = _prompts(list(new.values()), prompt) if new else {}
        predicted: dict[int, np.ndarray] = {}
        start = time.perf_counter()
        if new:
            processor.add_inputs_to_inference_session(session, index, list(new), original_size=size, **prompts)
        if session.objects:
            output = model(session, frame=frame, frame_idx=index)
            masks = processor.post_process_masks([output.pred_masks], [size], apply_non_overlapping_constraints=True)
            predicted = dict(zip(output.object_ids, masks[0][:, 0].cpu().numpy(), strict=True))
        yield TrackedFrame(index, frame, truth, predicted, time.perf_counter() - start)


def _prompts(masks: list[np.ndarray], prompt: Prompt) -> dict[str, Any]:
    """Prompts for objects on one frame, as the processor takes them."""
    if prompt == "mask":
        return {"input_masks": masks}
    if prompt == "box":
        return {"input_boxes": [[list(tight_box(mask)) for mask in masks]]}
    points = [[list(center_click(mask))] for mask in masks]
    return {"input_points": [points], "input_labels": [[[1]] * len(masks)]}


def track_and_score(
    model: EfficientTamVideoModel,
    processor: EfficientTamVideoProcessor,
    video: Iterable[AnnotatedFrame],
    *,
    prompt: Prompt = "mask",
    name: str = "video",
    on_frame: Callable[[TrackedFrame], None] | None = None,
) -> SequenceScores:
    """Track each object of a video from its first frame (see `track`) and score it (see `scores`).

    Args:
        model: evaluated in evaluation mode, and left in the mode it was in.
        name: of the video, for the scores.
        on_frame: called with every frame as it is done, to draw or to save it.

    Raises:
        ValueError: another `prompt`, or frames and masks that do not fit each other.
        ImportError: OpenCV is not installed.
    """
    scorer, num_frames, seconds = SequenceScorer(), 0, 0.0
    was_training = model.training
    model.eval()
    try:
        for tracked in track(model, processor, video, prompt):
            scorer.add(tracked.truth, tracked.predicted)
            num_frames += bool(tracked.predicted)
            seconds += tracked.seconds
            if on_frame is not None:
                on_frame(tracked)
    finally:
        model.train(was_training)
    return SequenceScores(name, scorer.scores(), num_frames, seconds)
