"""Functions for CVAT: click on an object to get its mask, and track a mask, a polygon or a box through a video.

`cvat-cli function run-agent` runs them on your machine: the CVAT server sends frames and clicks to it and gets shapes
back. The command takes this module as `--function-module` and calls `create` with what is given as
`-p NAME=TYPE:VALUE`. The interfaces are those of `cvat_sdk.auto_annotation`
(https://docs.cvat.ai/docs/api_sdk/sdk/auto-annotation/): an interaction function and a tracking function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..app.plan import add_prompts
from ..app.segmenting import propose_masks
from ..prompts import Box, ObjectPrompts


if TYPE_CHECKING:
    import PIL.Image

    from ..video_session import EfficientTamVideoInferenceSession


OBJECT_ID = 1
SHAPES = ("mask", "polygon", "rectangle")


def _auto_annotation() -> Any:
    """The module `cvat_sdk.auto_annotation`; raise `ImportError` with the extra to install if it is missing."""
    try:
        import cvat_sdk.auto_annotation as module
        import cvat_sdk.masks  # noqa: F401
    except ImportError as error:
        raise ImportError(f"CVAT's SDK is missing: pip install efficienttam-hf[cvat] ({error}).") from error
    return module


class InteractiveSegmentation:
    """An interaction function: points and a box on a frame give a mask.

    Args:
        model: a folder, an id on the Hub or a name that `efficienttam models` lists; by default as in the commands.
        device: `cpu`, `cuda`, or `auto` for the best of this machine.
        dtype: data type of the weights and activations.

    Raises:
        ImportError: if CVAT's SDK is not installed.
        ValueError, OSError: if there is no such model or device.
    """

    def __init__(self, model: str = "", device: str = "auto", dtype: str = "float32"):
        self._cvat = _auto_annotation()
        from ..modeling_efficienttam import EfficientTamModel

        self._model, self._processor = _load(EfficientTamModel, model, device, dtype)
        self.spec = self._cvat.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def preprocess_image(self, context: Any, image: PIL.Image.Image) -> np.ndarray:
        """The pixels of a frame, uint8 (height, width, 3) RGB."""
        return np.asarray(image.convert("RGB"))

    def detect(self, context: Any, pp_image: np.ndarray, prompts: Any) -> list[Any]:
        """The mask of the object that the prompts mean, as one shape; none if nothing is found.

        Args:
            context: not used.
            pp_image: the output of `preprocess_image`.
            prompts: the annotator's points and box, in pixels.
        """
        given = _prompts_of(prompts.pos_points, prompts.neg_points, prompts.bounding_box, pp_image.shape[:2])
        if given.is_empty:
            return []
        best = max(
            propose_masks(self._model, self._processor, pp_image, {OBJECT_ID: given})[OBJECT_ID],
            key=lambda proposal: proposal["score"],
        )
        if not best["mask"].any():
            return []
        confidence = self._cvat.InteractionResultAttributes.CONFIDENCE
        attribute = _models().AttributeValRequest(
            spec_id=int(confidence), value=str(round(min(max(best["score"], 0), 1), 4))
        )
        return [
            self._cvat.InteractionResultShape(type="mask", points=_encode_mask(best["mask"]), attributes=[attribute])
        ]


@dataclass
class TrackingState:
    """The state of a shape that is tracked.

    Attributes:
        session: the memories of the object; bounded however long the video is.
        shape_type: the type of the shape.
    """

    session: EfficientTamVideoInferenceSession
    shape_type: str


class Tracking:
    """A tracking function: a mask, a polygon or a box is followed from frame to frame.

    The arguments are those of `InteractiveSegmentation`.
    """

    def __init__(self, model: str = "", device: str = "auto", dtype: str = "float32"):
        self._cvat = _auto_annotation()
        from ..modeling_efficienttam_video import EfficientTamVideoModel

        self._model, self._processor = _load(EfficientTamVideoModel, model, device, dtype)
        self.spec = self._cvat.TrackingFunctionSpec(supported_shape_types=SHAPES)

    def preprocess_image(self, context: Any, image: PIL.Image.Image) -> np.ndarray:
        """The pixels of a frame, uint8 (height, width, 3) RGB."""
        return np.asarray(image.convert("RGB"))

    def init_tracking_state(self, context: Any, pp_image: np.ndarray, shape: Any) -> TrackingState:
        """Remember a shape on a frame.

        Args:
            context: not used.
            pp_image: the output of `preprocess_image`.
            shape: the shape, of one of the types in `SHAPES`.

        Raises:
            ValueError: if the shape is empty or outside the frame.
        """
        session = self._processor.init_video_session(
            inference_device=self._model.device, dtype=self._model.dtype, keep_history=False
        )
        size = pp_image.shape[:2]
        prompts = prompts_of_shape(shape.type, shape.points, size)
        prompts.check(size)
        add_prompts(self._model, self._processor, session, 0, OBJECT_ID, prompts, original_size=size)
        self._run(session, pp_image)
        return TrackingState(session, shape.type)

    def track(self, context: Any, pp_image: np.ndarray, state: TrackingState) -> Any:
        """Find the shape on the next frame, or return `None` if it is not seen there."""
        mask = self._run(state.session, pp_image)
        if not mask.any():
            return None
        return self._cvat.TrackableShape(type=state.shape_type, points=points_of_mask(mask, state.shape_type))

    def _run(self, session: EfficientTamVideoInferenceSession, image: np.ndarray) -> np.ndarray:
        """The object's mask on the next frame, bool (height, width)."""
        import torch

        with torch.no_grad():
            output = self._model(session, frame=image)
            masks = self._processor.post_process_masks([output.pred_masks], [image.shape[:2]])[0]
        return masks[0, 0].cpu().numpy()


def create(
    kind: str = "tracker", model: str = "", device: str = "auto", dtype: str = "float32"
) -> InteractiveSegmentation | Tracking:
    """Make a function for `cvat-cli`.

    Args:
        kind: `tracker` or `interactor`.
        model, device, dtype: see `InteractiveSegmentation`.

    Raises:
        ValueError: for another kind; else as `InteractiveSegmentation`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {kind!r}.")
    return KINDS[kind](model, device, dtype)


KINDS: dict[str, type[Tracking] | type[InteractiveSegmentation]] = {
    "tracker": Tracking,
    "interactor": InteractiveSegmentation,
}


def prompts_of_shape(kind: str, points: Sequence[float], size: tuple[int, int]) -> ObjectPrompts:
    """The prompts that a shape of CVAT is.

    Args:
        kind: one of `SHAPES`.
        points: as CVAT has them: of a mask, run lengths and a box; else x and y in turn.
        size: (height, width) of the frame.

    Raises:
        ValueError: for another kind, or if the points do not describe such a shape.
    """
    height, width = size
    if kind == "rectangle":
        if len(points) != 4:
            raise ValueError(f"A rectangle has 4 numbers, got {len(points)}.")
        (x0, x1), (y0, y1) = sorted((points[0], points[2])), sorted((points[1], points[3]))
        return ObjectPrompts(box=Box(max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))))
    if kind == "polygon":
        from ..data.run_lengths import run_lengths_of
        from ..mask_io import decode_rle

        rle, _ = run_lengths_of([list(points)], size, "The polygon")
        return ObjectPrompts(mask=decode_rle(rle))
    if kind == "mask":
        from cvat_sdk.masks import decode_mask

        return ObjectPrompts(mask=decode_mask(points, image_width=width, image_height=height))
    raise ValueError(f"Shapes of the types {', '.join(SHAPES)} can be tracked, got {kind!r}.")


def points_of_mask(mask: np.ndarray, kind: str) -> list[float]:
    """The points of a shape of CVAT for a mask that is not empty, bool (height, width).

    A polygon is the outline of the largest part of the mask, because CVAT's polygons have one part.
    """
    if kind == "mask":
        return _encode_mask(mask)
    if kind == "rectangle":
        from ..mask_io import box_and_area

        x, y, w, h = box_and_area(mask)["bbox"]
        return [float(x), float(y), float(x + w), float(y + h)]
    import cv2

    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=cv2.contourArea)
    simple = cv2.approxPolyDP(outline, 1.0, closed=True)
    if len(simple) < 3:  # a line or a point: its box is a polygon
        x, y, w, h = cv2.boundingRect(outline)
        return [float(n) for n in (x, y, x + w, y, x + w, y + h, x, y + h)]
    return simple.reshape(-1).astype(float).tolist()


def _prompts_of(
    positive: Sequence[tuple[float, float]],
    negative: Sequence[tuple[float, float]],
    box: tuple[tuple[float, float], tuple[float, float]] | None,
    size: tuple[int, int],
) -> ObjectPrompts:
    """The prompts of an interaction. Places beyond the edge of the frame are moved to it."""
    height, width = size

    def inside(point: Sequence[float]) -> tuple[float, float]:
        return min(max(float(point[0]), 0.0), float(width)), min(max(float(point[1]), 0.0), float(height))

    points = [inside(point) for point in (*positive, *negative)]
    labels = [1] * len(positive) + [0] * len(negative)
    prompts = ObjectPrompts(points, labels, None if box is None else Box(*inside(box[0]), *inside(box[1])))
    prompts.check(size)
    return prompts


def _encode_mask(mask: np.ndarray) -> list[float]:
    from cvat_sdk.masks import encode_mask

    return encode_mask(mask)


def _models() -> Any:
    import cvat_sdk.models

    return cvat_sdk.models


def _load(model_class: Any, model: str, device: str, dtype: str) -> tuple[Any, Any]:
    from ..app.loading import choose_device, choose_model, load_model, quiet_transformers

    chosen_device = choose_device(device)
    quiet_transformers()
    return load_model(model_class, choose_model(model or None, chosen_device).name, chosen_device, dtype)
