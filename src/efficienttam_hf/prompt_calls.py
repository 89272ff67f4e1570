"""Converts prompts from the nested lists of the Transformers API to `ObjectPrompts` and adds them to sessions.

`input_points`, `input_labels`, `input_boxes` and `input_masks` are nested by image or frame and by object, in lists,
tuples, arrays and tensors. Both processors, the ONNX tracker and the ONNX segmenter read them with the functions of
this file, so that they accept the same input and raise the same errors. `add_inputs` adds the prompts of a call to a
session. The file needs NumPy and no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from .images import to_array, to_rgb
from .prompts import (
    BOTTOM_RIGHT,
    NEGATIVE,
    NO_POINT,
    PADDING,
    POSITIVE,
    TOP_LEFT,
    Box,
    ObjectPrompts,
    Resize,
    Size,
    frame_prompts,
    read_labels,
    read_nested,
)


if TYPE_CHECKING:
    from .tracking_session import TrackingSession

POINTS_FORM = "[[[[x, y], ...] for each object] for each image or frame]"
LABELS_FORM = "[[[label, ...] for each object] for each image or frame]"
BOXES_FORM = "[[[x0, y0, x1, y1] for each object] for each image or frame]"
CALL_LABELS = (POSITIVE, NEGATIVE, NO_POINT, TOP_LEFT, BOTTOM_RIGHT, PADDING)


@dataclass
class CallPrompts:
    """The prompts of a Transformers call as lists [image or frame][object]; a list is `None` if it was not given.

    Attributes:
        points: the points of each object, each [x, y].
        labels: the labels of each object's points.
        boxes: the box of each object, [x0, y0, x1, y1].
    """

    points: list[list[list[list[float]]]] | None
    labels: list[list[list[int]]] | None
    boxes: list[list[list[float]]] | None

    @classmethod
    def read(cls, input_points: Any = None, input_labels: Any = None, input_boxes: Any = None) -> CallPrompts:
        """Read prompts from any nesting of lists, tuples, arrays and tensors.

        Raises:
            ValueError: if the depth is another, or labels come without points or in another number.
        """
        points = None if input_points is None else read_nested(input_points, 4, "input_points", POINTS_FORM, width=2)
        labels = None if input_labels is None else read_labels(input_labels, 3, "input_labels", LABELS_FORM)
        boxes = None if input_boxes is None else read_nested(input_boxes, 3, "input_boxes", BOXES_FORM, width=4)
        if labels is not None:
            if points is None:
                raise ValueError("input_labels were given without points: give input_points too, or leave both out.")
            if [len(image) for image in points] != [len(image) for image in labels]:
                raise ValueError(
                    "input_points and input_labels have different numbers of objects: there are points for "
                    f"{[len(image) for image in points]} objects of each image, and labels for "
                    f"{[len(image) for image in labels]}. Give one label for each point."
                )
        elif points is not None:
            labels = [[[POSITIVE] * len(given) for given in image] for image in points]
        return cls(points, labels, boxes)

    def objects(self, image: int, where: Callable[[int], str] = lambda row: "") -> list[ObjectPrompts]:
        """The prompts of each object in one image or frame.

        Args:
            image: the index of the image or frame.
            where: a function from the row of an object to a phrase for messages about it.

        Raises:
            ValueError: as `object_prompts`.
        """
        points = [] if self.points is None else self.points[image]
        labels = [] if self.labels is None else self.labels[image]
        boxes = [] if self.boxes is None else self.boxes[image]
        return [
            object_prompts(
                points[row] if row < len(points) else [],
                labels[row] if row < len(labels) else [],
                boxes[row] if row < len(boxes) else None,
                where(row),
            )
            for row in range(max(len(points), len(boxes)))
        ]


def object_prompts(
    points: Sequence[Sequence[float]], labels: Sequence[int], box: Sequence[float] | None = None, where: str = ""
) -> ObjectPrompts:
    """The prompts of one object of a call: padding is left out, and two points labelled 2 and 3 become a box.

    Raises:
        ValueError: if a label is unknown, a corner of a box lacks the other one, the object has two boxes, or points
            and labels differ in number.
    """
    if len(points) != len(labels):
        raise ValueError(
            f"There are {len(points)} points but {len(labels)} labels{where}: give one label for each point."
        )
    kept: list[tuple[tuple[float, float], int]] = []
    corners: list[tuple[float, float]] = []
    for (x, y), label in zip(points, labels, strict=True):
        if label not in CALL_LABELS:
            raise ValueError(
                f"Label {label}{where} has no meaning. Accepted are 1 (a positive point), 0 (a negative point), and 2 "
                "and 3 (the top-left and bottom-right corners of a box)."
            )
        if label in (TOP_LEFT, BOTTOM_RIGHT):
            if label != (TOP_LEFT, BOTTOM_RIGHT)[len(corners) % 2]:
                corners = []
                break
            corners.append((x, y))
        elif label != PADDING:
            kept.append(((x, y), label))
    if len(corners) != (2 if TOP_LEFT in labels or BOTTOM_RIGHT in labels else 0):
        raise ValueError(
            f"Labels {list(labels)}{where} do not make a box: give a point with label 2 (the top-left corner), then "
            "one with label 3 (the bottom-right corner), once for each object; or use input_boxes."
        )
    if corners:
        if box is not None:
            raise ValueError(
                f"There are two boxes{where}, one as a box and one as points with labels 2 and 3: give one of them."
            )
        box = Box(*corners[0], *corners[1])
    return ObjectPrompts([point for point, _ in kept], [label for _, label in kept], None if box is None else Box(*box))


def read_masks(input_masks: Any, count: int) -> list[Any]:
    """Read the mask prompts of a call as a list with one item for each of `count` objects.

    Args:
        input_masks: one mask (an array, a tensor, a PIL image, or nested lists of numbers), a list or tuple of masks,
            or an array or tensor (count, height, width) or (count, 1, height, width).

    Raises:
        ValueError: if the number of masks is not `count`.
    """
    if isinstance(input_masks, list | tuple):
        # If the items are rows of numbers, the whole is one mask; if each item has rows, each is a mask.
        rows = all((item.ndim if hasattr(item, "ndim") else np.ndim(item)) == 1 for item in input_masks)
        masks = [input_masks] if rows and len(input_masks) else list(input_masks)
    elif hasattr(input_masks, "shape"):
        single = len(input_masks.shape) == 2 or count == 1
        masks = [input_masks] if single else list(input_masks)
    else:
        masks = [input_masks]
    if len(masks) != count:
        raise ValueError(
            f"The number of object ids ({count}) does not match number of masks ({len(masks)}): give one mask for each "
            "object id."
        )
    return masks


def read_object_ids(obj_ids: Any) -> list[int]:
    """Read the object ids of a call: one whole number, or several different ones.

    Raises:
        ValueError: if `obj_ids` is anything else.
    """
    ids = to_array(obj_ids).tolist() if isinstance(obj_ids, np.ndarray) or hasattr(obj_ids, "detach") else obj_ids
    ids = list(ids) if isinstance(ids, list | tuple | range) else [ids]
    if not ids or not all(isinstance(i, Integral) and not isinstance(i, bool) for i in ids):
        raise ValueError(f"obj_ids must be a whole number or a list of at least one whole number, got {obj_ids!r}.")
    if len(set(ids)) < len(ids):
        raise ValueError(f"Each object id may be given once in a call, got {ids}: join the prompts of an object.")
    return [int(i) for i in ids]


def call_prompts(
    ids: list[int],
    input_points: Any,
    input_labels: Any,
    input_boxes: Any,
    input_masks: Any,
    size: Size | None,
) -> list[ObjectPrompts]:
    """Read and check the prompts of a call for one frame and return one `ObjectPrompts` for each of `ids`.

    Raises:
        ValueError: if a prompt is invalid; the message uses pixels of the user's frame.
    """
    if (input_points is not None) != (input_labels is not None):
        raise ValueError(
            "input_points and input_labels must be provided together, but only "
            f"{'input_points' if input_labels is None else 'input_labels'} were given."
        )
    if input_points is None and input_boxes is None and input_masks is None:
        raise ValueError("There is no prompt: give input_points with input_labels, input_boxes, or input_masks.")
    if input_masks is not None and (input_points is not None or input_boxes is not None):
        raise ValueError(
            "input_masks cannot be provided together with input_points or input_boxes: give the mask in one call and "
            "points that correct it in another."
        )

    def where(row: int) -> str:
        return f" for object {ids[row]}"

    if input_masks is not None:
        prompts = [ObjectPrompts(mask=mask) for mask in read_masks(input_masks, len(ids))]
    else:
        if size is None:
            raise ValueError(
                "original_size must be provided with points or boxes before the first frame of a stream, as the size "
                "of its frames is not known yet: give (height, width)."
            )
        given = CallPrompts.read(input_points, input_labels, input_boxes)
        for name, values in (("points", given.points), ("boxes", given.boxes)):
            if values is not None and (len(values) != 1 or len(values[0]) != len(ids)):
                number = sum(len(frame) for frame in values)
                raise ValueError(
                    f"The number of object ids ({len(ids)}) does not match number of {name} ({number}): give one entry "
                    "for each object id."
                )
        prompts = given.objects(0, where)
    for row, one in enumerate(prompts):
        if one.is_empty:
            raise ValueError(
                f"There is no point{where(row)}: each object of a call needs a point or a box. Points are nested in 4 "
                f"levels, {POINTS_FORM}."
            )
        one.check(size, where(row), labels=(POSITIVE, NEGATIVE, NO_POINT))
    return prompts


def add_inputs(
    session: TrackingSession,
    frame_idx: int | None,
    obj_ids: Any,
    input_points: Any,
    input_labels: Any,
    input_boxes: Any,
    input_masks: Any,
    original_size: Any,
    clear_old_inputs: bool,
    input_size: Size,
    resize: Resize,
    convert: Callable[[np.ndarray], Any] = lambda array: array,
) -> None:
    """Add the prompts of a call to a session. Every tracker's `add_inputs_to_inference_session` calls this function.

    Args:
        session, ..., clear_old_inputs: see `EfficientTamVideoProcessor.add_inputs_to_inference_session`.
        input_size: (height, width) of the network's input.
        resize: the function that resizes a mask.
        convert: the function that converts an array to the type that the session keeps.

    Raises:
        ValueError: if a prompt is invalid; the message uses pixels of the user's frame, and nothing is changed.
    """
    ids = read_object_ids(obj_ids)
    if input_boxes is not None and not clear_old_inputs:
        raise ValueError(
            "input_boxes cannot be added with clear_old_inputs=False, because a box comes before the points of an "
            "object: use clear_old_inputs=True and give the points again."
        )
    frame_idx = session.check_frame_idx(frame_idx, upcoming=True)
    size = None
    if session.video_height is not None and session.video_width is not None:
        size = (session.video_height, session.video_width)
    if original_size is not None:
        height, width = to_array(original_size).reshape(-1)[:2]
        size = (int(height), int(width))
        session.check_original_size(*size)
    prompts = [
        frame_prompts(given, size, input_size, resize)
        for given in call_prompts(ids, input_points, input_labels, input_boxes, input_masks, size)
    ]
    if size is not None:
        session.set_original_size(*size)
    for object_id, new in zip(ids, prompts, strict=True):
        old = session.objects[object_id].prompts.get(frame_idx) if object_id in session.objects else None
        if old is not None and not clear_old_inputs:
            new = old.joined(new)
        session.add_prompts(object_id, frame_idx, new.converted(convert))


def add_reference(
    session: TrackingSession,
    image: Any,
    mask: Any,
    obj_id: Any,
    input_size: Size,
    resize: Resize,
    convert: Callable[[np.ndarray], Any] = lambda array: array,
) -> None:
    """Add a reference image of an object to a session. Every tracker's `add_reference_to_session` calls this function.

    Args:
        session, image, mask, obj_id: see `EfficientTamVideoProcessor.add_reference_to_session`.
        input_size, resize, convert: see `add_inputs`.

    Raises:
        ValueError: if the image or the mask is invalid, or their sizes differ; nothing is changed.
    """
    (object_id,) = read_object_ids([obj_id])
    size = to_rgb(image).shape[:2]
    where = f" of the reference image of object {object_id}"
    (given,) = (ObjectPrompts(mask=one) for one in read_masks(mask, 1))
    given.check((size[0], size[1]), where)
    prompts = frame_prompts(given, None, input_size, resize)
    session.add_reference(object_id, session.reference_pixels(image), prompts.converted(convert))
