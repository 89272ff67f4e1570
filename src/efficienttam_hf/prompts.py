"""`ObjectPrompts`: the prompts for one object on one frame, from any source, checked once and scaled once.

All prompts pass through `ObjectPrompts` on their way from the user to the model. The command line, the demo and the
JSON reader make it directly; `prompt_calls.py` makes it from the nested lists, arrays and tensors of Transformers'
calls. It is checked in pixels of the user's frame (`ObjectPrompts.check`), scaled to another size of the frame
(`ObjectPrompts.scaled`), drawn (`visualization.overlay_masks`) and written to and read from JSON (`prompts_as_json`,
`prompts_from_json`). `frame_prompts` converts it to `FramePrompts`, the arrays that the network takes, in which a box
is two labelled points.

Only NumPy is used, so that the tracker on exported graphs gives its network the same numbers as the torch model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from .images import to_array


POSITIVE, NEGATIVE = 1, 0
TOP_LEFT, BOTTOM_RIGHT = 2, 3  # labels of the corners of a box, when it is given as two points
NO_POINT = -1
PADDING = -10  # label of the points that pad lists of unequal length, as in Transformers
MASK_STRIDE = 4  # the mask decoder's masks have a quarter of the input size

# (height, width), and a function that resizes a float32 map (h, w) bilinearly with antialiasing.
Size = tuple[int, int]
Resize = Callable[[np.ndarray, Size], np.ndarray]


class Box(NamedTuple):
    """A box in pixels: its top-left corner (x0, y0) and its bottom-right corner (x1, y1)."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass
class FramePrompts:
    """The prompts for one object on one frame as the network takes them, in pixels of the network's input.

    The fields are arrays, or tensors in a session of the torch model.

    Attributes:
        points: (1, K, 2) float32, (x, y); the first two points can be the corners of a box. `None` if there is a mask.
        labels: (1, K) int64: 1 positive, 0 negative, 2 and 3 the corners of a box.
        mask: (1, 1, height, width) float32 of 0 and 1 at the model's input size.
    """

    points: Any | None = None
    labels: Any | None = None
    mask: Any | None = None

    def joined(self, later: FramePrompts) -> FramePrompts:
        """Append the points of `later` and return arrays; if either of the two is a mask, return `later`."""
        if self.points is None or later.points is None:
            return later
        return FramePrompts(
            np.concatenate([to_array(self.points), to_array(later.points)], axis=1),
            np.concatenate([to_array(self.labels), to_array(later.labels)], axis=1),
        )

    def converted(self, convert: Callable[[np.ndarray], Any]) -> FramePrompts:
        """Apply `convert`, for example `torch.from_numpy`, to each array."""
        values = (self.points, self.labels, self.mask)
        return FramePrompts(*(None if value is None else convert(value) for value in values))


@dataclass
class ObjectPrompts:
    """The prompts for one object on one frame, in pixels of that frame.

    Points and a box together with a mask are a correction: they change the mask, which is an earlier result.

    Attributes:
        points: (x, y) of each point.
        labels: the label of each point, 1 (positive) or 0 (negative).
        box: a box around the object.
        mask: (height, width) bool, a mask of the object.
    """

    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: Box | None = None
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.box is not None:
            self.box = Box(*self.box)

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a point nor a box nor a mask."""
        return not self.points and self.box is None and self.mask is None

    def check(self, size: Size | None, where: str = "", labels: Sequence[int] = (NEGATIVE, POSITIVE)) -> None:
        """Check the prompts against the size of their frame. A mask of another type (see `check_mask`) becomes bool.

        Args:
            size: (height, width) of the frame; `None` if it is not known, which is allowed for a mask alone.
            where: a phrase for messages, such as `" for object 3"`.
            labels: the labels that are accepted.

        Raises:
            ValueError: if coordinates are not finite or outside the frame, a label is not accepted, points and labels
                differ in number, the corners of a box are not top-left and bottom-right, or a mask is empty or has
                another size.
        """
        if len(self.points) != len(self.labels):
            raise ValueError(
                f"There are {len(self.points)} points but {len(self.labels)} labels{where}: give one label for each "
                "point."
            )
        for label in self.labels:
            if label not in labels:
                raise ValueError(
                    f"Label {label}{where} has no meaning. Accepted are 1 (a positive point, on the object) and 0 (a "
                    "negative point, beside it). Give a box as a box, not as two points."
                )
        if self.points or self.box is not None:
            if size is None:
                raise ValueError(f"The size of the frame is needed to check points and boxes{where}.")
            for point, label in zip(self.points, self.labels, strict=True):
                if label != NO_POINT:
                    _check_point(point, size, where)
            if self.box is not None:
                _check_box(self.box, size, where)
        if self.mask is not None:
            self.mask = check_mask(self.mask, size, where)

    def scaled(self, size: Size, new_size: Size) -> ObjectPrompts:
        """Convert the prompts from a frame of (height, width) `size` to the same frame resized to `new_size`.

        A mask is resized by nearest neighbours. If it is so thin or small that the result would be empty, the result
        has every pixel that the mask touches.
        """
        mask = given = self.mask
        if given is not None and given.shape != tuple(new_size):
            mask = _nearest(given, new_size)
            if not mask.any():
                mask = covered_cells(given, new_size)
        points = [tuple(point) for point in scale_points(self.points, size, new_size).tolist()]
        box = None
        if self.box is not None:
            box = Box(*scale_points([self.box[:2], self.box[2:]], size, new_size).flatten().tolist())
        return ObjectPrompts(points, list(self.labels), box, mask)

    def as_call(self) -> dict[str, Any]:
        """The points and the box as arguments of Transformers' calls, for one object of one image or frame."""
        arguments: dict[str, Any] = {}
        if self.points:
            arguments["input_points"] = [[[list(point) for point in self.points]]]
            arguments["input_labels"] = [[list(self.labels)]]
        if self.box is not None:
            arguments["input_boxes"] = [[list(self.box)]]
        return arguments

    def as_json(self) -> dict[str, Any]:
        """The prompts as they are written to JSON. Of a mask, only its presence is written."""
        shown = {
            "points": [list(point) for point in self.points],
            "labels": self.labels,
            "box": self.box and list(self.box),
            "mask": self.mask is not None,
        }
        return {name: value for name, value in shown.items() if value}

    @classmethod
    def from_json(cls, given: Any, where: str = "") -> ObjectPrompts:
        """Read the output of `as_json`: `{"points": [[x, y], ...], "labels": [1, ...], "box": [x0, y0, x1, y1]}`.

        Points without labels are positive. Other names (such as `frame`) are ignored.

        Raises:
            ValueError: if a field has another form; the message names the field.
        """
        if not isinstance(given, dict):
            raise ValueError(f'The prompts{where} must be an object with "points", "labels" or "box", got {given!r}.')
        if given.get("mask"):
            raise ValueError(
                f"The prompts{where} have a mask, which JSON prompts cannot contain: give points or a box."
            )
        points = read_nested(given.get("points") or [], 2, f"The points{where}", "[[x, y], ...]", width=2)
        labels = given.get("labels")
        labels = (
            [POSITIVE] * len(points) if labels is None else read_labels(labels, 1, f"The labels{where}", "[1, 0, ...]")
        )
        box = given.get("box") or None
        if box is not None:
            (box,) = read_nested([box], 2, f"The box{where}", "[x0, y0, x1, y1]", width=4)
        return cls([tuple(point) for point in points], labels, box)


# Frame -> object id -> prompts.
Prompts = dict[int, dict[int, ObjectPrompts]]


def scaled_prompts(prompts: Prompts, size: Size, new_size: Size) -> Prompts:
    """Convert prompts from frames of (height, width) `size` to the same frames resized to `new_size`."""
    return {
        frame: {object_id: given.scaled(size, new_size) for object_id, given in on_frame.items()}
        for frame, on_frame in prompts.items()
    }


def prompts_as_json(prompts: Prompts) -> list[dict[str, Any]]:
    """`[{"id": 1, "prompts": [{"frame": 0, "points": [[x, y]], "labels": [1], "box": [x0, y0, x1, y1]}]}]`."""
    objects: dict[int, list] = {}
    for frame, on_frame in sorted(prompts.items()):
        for object_id, given in on_frame.items():
            objects.setdefault(object_id, []).append({"frame": frame, **given.as_json()})
    return [{"id": object_id, "prompts": given} for object_id, given in sorted(objects.items())]


def prompts_from_json(given: Any) -> Prompts:
    """Read the output of `prompts_as_json`; see `ObjectPrompts.from_json`. Nothing is checked against a frame.

    Raises:
        ValueError: if the form is another, an object has no id, a prompt has no frame, or one object has two prompts
            on one frame.
    """
    if not isinstance(given, list):
        raise ValueError(f"The prompts must be a list of objects, got {type(given).__name__}.")
    prompts: Prompts = {}
    for number, one in enumerate(given):
        if not isinstance(one, dict) or not isinstance(one.get("prompts"), list):
            raise ValueError(f'Item {number} of the prompts must have an "id" and a list "prompts", got {one!r}.')
        object_id = _whole_number(one.get("id"), f'"id" of item {number}')
        for prompt in one["prompts"]:
            where = f" of object {object_id}"
            if not isinstance(prompt, dict):
                raise ValueError(f'A prompt{where} must have a "frame", and "points" or a "box", got {prompt!r}.')
            frame = _whole_number(prompt.get("frame"), f'"frame" of a prompt{where}')
            where += f" on frame {frame}"
            on_frame = prompts.setdefault(frame, {})
            if object_id in on_frame:
                raise ValueError(f"There are two prompts{where}: put their points into one prompt.")
            on_frame[object_id] = ObjectPrompts.from_json(prompt, where)
    return prompts


# ------------------------------------------------------------------------------------------------------------- checks


def check_mask(mask: Any, size: Size | None, where: str = "") -> np.ndarray:
    """Check the mask prompt of one object and convert it to bool (height, width).

    Args:
        mask: an array, tensor, PIL image or nested lists of shape (height, width), possibly with leading axes of
            length 1. Its values are bool, integers (the object is where they are above 0) or floats (above 0.5).
        size: (height, width) of the frame, or `None` if it is not known.
        where: a phrase for messages.

    Raises:
        ValueError: if the shape is another, the size is not the frame's, values are not finite, integers are below
            zero, or the mask is empty.
    """
    mask = to_array(mask)
    while mask.ndim > 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise ValueError(f"A mask{where} must be numbers of shape (height, width), got {mask.dtype} {mask.shape}.")
    if size is not None and tuple(mask.shape) != tuple(size):
        raise ValueError(
            f"The mask{where} is {mask.shape[1]}x{mask.shape[0]} pixels, but the frame is {size[1]}x{size[0]}: resize "
            "the mask to the frame."
        )
    if mask.dtype.kind == "f":
        if not np.isfinite(mask).all():
            raise ValueError(f"The mask{where} has values that are not finite: give True or a number above 0.5 on it.")
        mask = mask > 0.5
    elif mask.dtype.kind == "i" and (mask < 0).any():
        raise ValueError(f"The mask{where} has values below 0: give True or a number above 0 on the object, else 0.")
    mask = mask != 0
    if not mask.any():
        raise ValueError(f"The mask{where} is empty. If the object is not on this frame, add negative points instead.")
    return mask


def _check_point(point: Sequence[float], size: Size, where: str) -> None:
    (x, y), (height, width) = point, size
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"Point ({x}, {y}){where} is not a position: coordinates must be finite numbers.")
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(
            f"Point ({x:g}, {y:g}){where} is outside the frame, which is {width} wide and {height} high: x must be "
            f"from 0 to {width}, y from 0 to {height}."
        )


def _check_box(box: Box, size: Size, where: str) -> None:
    height, width = size
    x0, y0, x1, y1 = box
    shown = "({:g}, {:g}, {:g}, {:g})".format(*box)
    if not all(math.isfinite(value) for value in box):
        raise ValueError(f"Box {shown}{where} is not a position: coordinates must be finite numbers.")
    if x0 >= x1 or y0 >= y1:
        raise ValueError(
            f"Box {shown}{where} is empty: give x0, y0, x1, y1 with x0 < x1 and y0 < y1, the top-left corner first."
        )
    if not (0 <= x0 and x1 <= width and 0 <= y0 and y1 <= height):
        raise ValueError(
            f"Box {shown}{where} is outside the frame, which is {width} wide and {height} high: x must be from 0 to "
            f"{width}, y from 0 to {height}."
        )


def _whole_number(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    return int(value)


def read_nested(value: Any, depth: int, name: str, form: str, width: int | None = None) -> list:
    """Read numbers nested `depth` levels deep in any mixture of lists, tuples, arrays and tensors as lists of floats.

    Args:
        value: the nested numbers.
        depth: the number of levels.
        name, form: the name of the argument and the form of its nesting, for messages.
        width: the length of the innermost lists; `None` for any length.

    Raises:
        ValueError: if the depth or the length of an innermost list is another, or an item is not a number.
    """

    def wrong(what: str) -> ValueError:
        return ValueError(f"{name} must be nested as {form}, {depth} levels of lists, arrays or tensors; {what}.")

    def read(part: Any, levels: int) -> Any:
        if isinstance(part, np.ndarray) or hasattr(part, "detach"):
            part = to_array(part).tolist()
        if isinstance(part, list | tuple):
            if levels == 0:
                raise wrong("there is one level too many")
            if levels == 1 and width is not None and len(part) != width:
                raise wrong(f"got {len(part)} numbers where {width} are expected")
            return [read(item, levels - 1) for item in part]
        if not isinstance(part, Real):
            raise wrong(f"got {part!r}, a {type(part).__name__}")
        if levels > 0:
            raise wrong(f"got {part!r} where {levels} more level{'s are' if levels > 1 else ' is'} expected")
        return float(part)

    return read(value, depth)


def read_labels(value: Any, depth: int, name: str, form: str) -> list:
    """Read nested labels, which are whole numbers; see `read_nested`.

    Raises:
        ValueError: as in `read_nested`, and if a number is not whole.
    """

    def whole(part: Any) -> Any:
        if isinstance(part, list):
            return [whole(item) for item in part]
        if not math.isfinite(part) or part != int(part):
            raise ValueError(f"{name} must be whole numbers, got {part:g}.")
        return int(part)

    return whole(read_nested(value, depth, name, form))


# ----------------------------------------------------------------------------------------------------- for the network


def scale_points(points: Any, size: Size, new_size: Size, dtype: type = np.float64) -> np.ndarray:
    """Scale (K, 2) points (x, y) from a frame of (height, width) `size` to the same frame resized to `new_size`."""
    points = np.asarray(points, dtype).reshape(-1, 2)
    # Divide first, as the published code does, so that rounding is the same.
    return points / np.array(size[::-1], dtype) * np.array(new_size[::-1], dtype)


def frame_prompts(prompts: ObjectPrompts, size: Size | None, input_size: Size, resize: Resize) -> FramePrompts:
    """Convert prompts from pixels of the frame to the arrays that the network takes; corners of a box precede points.

    Args:
        prompts: checked prompts: points and a box, or a mask.
        size: (height, width) of the frame; a mask alone does not need it.
        input_size: (height, width) of the network's input.
        resize: the function that resizes a mask.
    """
    if prompts.mask is not None:
        return FramePrompts(mask=mask_for_network(prompts.mask, input_size, resize)[None, None])
    assert size is not None  # `ObjectPrompts.check` has checked this
    points, labels = list(prompts.points), list(prompts.labels)
    if prompts.box is not None:
        points = [prompts.box[:2], prompts.box[2:], *points]
        labels = [TOP_LEFT, BOTTOM_RIGHT, *labels]
    return FramePrompts(scale_points(points, size, input_size, np.float32)[None], np.array([labels], np.int64))


def mask_for_network(mask: np.ndarray, input_size: Size, resize: Resize) -> np.ndarray:
    """Convert a bool mask of any size to float32 values 0 and 1 at the network's input size.

    A pixel of the result is 1 if the mask covers at least half of it. The mask decoder's masks have a quarter of the
    input size; if a mask is so thin or small that it would be empty at that size, the result has every cell of that
    size that the mask touches.
    """
    cells = (input_size[0] // MASK_STRIDE, input_size[1] // MASK_STRIDE)
    values = mask.astype(np.float32)
    if mask.shape != tuple(input_size):
        values = (resize(values, input_size) >= 0.5).astype(np.float32)
    if values.any() and (resize(values, cells) > 0.5).any():
        return values
    touched = covered_cells(mask, cells).astype(np.float32)
    return touched.repeat(MASK_STRIDE, axis=0).repeat(MASK_STRIDE, axis=1)


def covered_cells(mask: np.ndarray, size: Size) -> np.ndarray:
    """Lay a grid of (rows, columns) `size` over a bool mask and return the cells that the mask touches."""
    covered = _nearest(mask, size)
    rows, columns = np.nonzero(mask)
    rows = ((rows + 0.5) * size[0] / mask.shape[0]).astype(int)
    columns = ((columns + 0.5) * size[1] / mask.shape[1]).astype(int)
    covered[rows, columns] = True
    return covered


def _nearest(mask: np.ndarray, size: Size) -> np.ndarray:
    """Resize a mask by nearest neighbours: a new pixel takes the value of the pixel in which its centre lies."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int).clip(0, old - 1)
        for old, new in zip(mask.shape, size, strict=True)
    )
    return mask[rows[:, None], columns]
