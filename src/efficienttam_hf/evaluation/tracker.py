"""The tracker interface of evaluation, as protocols: the torch model and the ONNX tracker implement it.

Another tracker can be evaluated if it has these methods. Evaluation only reads the masks at the size of the frame,
which may be of any type that NumPy converts to an array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np


__all__ = ["FrameOutput", "ReportedScores", "TrackingModel", "TrackingProcessor"]
__all__ += ["evaluating", "masks_of", "scores_of", "start_session"]


class FrameOutput(Protocol):
    """The objects of a session on one frame.

    Attributes:
        object_ids: the objects, in the order of rows.
        pred_masks: (objects, 1, h, w) mask logits, for `TrackingProcessor.post_process_masks`.
    """

    object_ids: list[int]
    pred_masks: Any


class ReportedScores(NamedTuple):
    """What a tracker says of its own mask.

    Attributes:
        presence: the probability that the object is in the frame.
        predicted_iou: the expected IoU of the mask with the truth.
    """

    presence: float
    predicted_iou: float


class TrackingModel(Protocol):
    """A tracker."""

    def segment_prompts(self, inference_session: Any, frame_idx: int) -> Any:
        """Run the pending prompts of a frame and return a `FrameOutput`."""

    def track_frame(self, inference_session: Any, frame_idx: int) -> Any:
        """Give every object a result on a frame and return a `FrameOutput`."""


class TrackingProcessor(Protocol):
    """Converts frames and prompts for a `TrackingModel`, and its masks to the size of the frame.

    Its sessions are `TrackingSession`s: evaluation reads `objects` and calls `add_new_frame`.
    """

    def init_video_session(self, *args: Any, **options: Any) -> Any:
        """Create a session for a stream of frames."""

    def add_inputs_to_inference_session(self, *args: Any, **prompts: Any) -> Any:
        """Add prompts for objects on a frame: `inference_session`, `frame_idx`, `obj_ids`, and the prompts by name."""

    def post_process_masks(
        self,
        masks: list[Any],
        original_sizes: list[tuple[int, int]],
        *,
        apply_non_overlapping_constraints: bool = False,
    ) -> list[Any]:
        """Convert mask logits to bool masks (objects, 1, height, width) at the size of the frame."""


@contextmanager
def evaluating(model: TrackingModel) -> Iterator[None]:
    """Put a trainable model into evaluation mode inside the block, and back into its previous mode afterwards."""
    trainable: Any = model if getattr(model, "training", False) else None
    if trainable is not None:
        trainable.eval()
    try:
        yield
    finally:
        if trainable is not None:
            trainable.train()


def start_session(model: TrackingModel, processor: TrackingProcessor, options: Mapping[str, Any] | None = None) -> Any:
    """Create a session without history for a stream of frames, on the model's device and in its dtype if it has these.

    Args:
        options: further options of `init_video_session`.
    """
    of_torch: Any = model
    placed = {"inference_device": of_torch.device, "dtype": of_torch.dtype} if hasattr(model, "device") else {}
    return processor.init_video_session(keep_history=False, **placed, **(options or {}))


def masks_of(
    processor: TrackingProcessor, output: FrameOutput, size: tuple[int, int], overlap: bool = True
) -> Mapping[int, np.ndarray]:
    """The masks of a frame at its own size, bool (height, width) by object id.

    Args:
        size: (height, width) of the frame.
        overlap: whether a pixel may belong to several objects.
    """
    options = {} if overlap else {"apply_non_overlapping_constraints": True}
    (masks,) = processor.post_process_masks([output.pred_masks], [size], **options)
    masks = masks.cpu() if hasattr(masks, "cpu") else masks
    return dict(zip(output.object_ids, np.asarray(masks)[:, 0], strict=True))


def scores_of(output: FrameOutput) -> dict[int, ReportedScores]:
    """The reported scores of a frame by object id; empty if the tracker's output has none."""
    logits, expected = (getattr(output, name, None) for name in ("object_score_logits", "iou_scores"))
    if logits is None or expected is None:
        return {}
    rows = (np.asarray(_on_cpu(values), dtype=np.float64).reshape(-1) for values in (logits, expected))
    return {
        object_id: ReportedScores(math.exp(-np.logaddexp(0, -logit)), iou)  # the logistic function, without overflow
        for object_id, logit, iou in zip(output.object_ids, *(row.tolist() for row in rows), strict=True)
    }


def _on_cpu(values: Any) -> Any:
    """A tensor of any device and dtype as float32 on the CPU; other arrays unchanged."""
    return values.float().cpu() if hasattr(values, "cpu") else values
