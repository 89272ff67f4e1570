"""`ObjectPrompts`: the prompts for one object on one frame, from any source, checked once and scaled once.

`ObjectPrompts` is the one form between the user and the model. The command line, the demo and JSON make it directly;
the nested lists, arrays and tensors of Transformers' calls become it in `prompt_calls.py`. It is checked in the user's
own pixels (`ObjectPrompts.check`), scaled to another size of the frame (`ObjectPrompts.scaled`), drawn
(`visualization.overlay_masks`) and written to and read from JSON (`prompts_as_json`, `prompts_from_json`).
`frame_prompts` turns it into `FramePrompts`, the arrays the network takes, where a box is two labelled points.

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
TOP_LEFT, BOTTOM_RIGHT = 2, 3  # the corners of a box, where it has to be two points
NO_POINT = -1
PADDING = -10  # fills up lists of unequal length, as in Transformers
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
    """What a user said of one object on one frame, as the network takes it: in pixels of its input.

    Arrays, or tensors in a session of the torch model.

    Attributes:
        points: (1, K, 2) float32, (x, y); a box is its first two points. `None` where there is a mask.
        labels: (1, K) int64: 1 positive, 0 negative, 2 and 3 the corners of a box.
        mask: (1, 1, height, width) float32 of 0 and 1 at the model's input size.
    """

    points: Any | None = None
    labels: Any | None = None
    mask: Any | None = None

    def joined(self, later: FramePrompts) -> FramePrompts:
        """These points and `later` ones, as arrays; where either is a mask, `later` alone."""
        if self.points is None or later.points is None:
            return later
        return FramePrompts(
            np.concatenate([to_array(self.points), to_array(later.points)], axis=1),
            np.concatenate([to_array(self.labels), to_array(later.labels)], axis=1),
        )

    def converted(self, convert: Callable[[np.ndarray], Any]) -> FramePrompts:
        """Each array through `convert`, for example `torch.from_numpy`."""
        values = (self.points, self.labels, self.mask)
        return FramePrompts(*(None if value is None else convert(value) for value in values))


@dataclass
class ObjectPrompts:
    """What was said of one object on one frame, in pixels of that frame.

    Points and a box together with a mask are a correction: the mask is what was tracked, and they change it.

    Attributes:
        points: (x, y) of each point.
        labels: for each point 1 (positive) or 0 (negative).
        box: around the object.
        mask: bool (height, width).
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
        """Whether nothing is said: neither a point nor a box nor a mask."""
        return not self.points and self.box is None and self.mask is None

    def check(self, size: Size | None, where: str = "", labels: Sequence[int] = (NEGATIVE, POSITIVE)) -> None:
        """Check against a frame, in its pixels. A mask of another kind (see `check_mask`) becomes bool.

        Args:
            size: (height, width) of the frame; `None` where it is not known, for a mask alone.
            where: a phrase for messages, such as `" for object 3"`.
            labels: those that are accepted.

        Raises:
            ValueError: for coordinates that are not finite or outside the frame, other labels, unequal numbers of
                points and labels, a box whose corners are not top-left and bottom-right, a mask of another size, or
                an empty one.
        """
        if len(self.points) != len(self.labels):
            raise ValueError(f"{len(self.points)} points but {len(self.labels)} labels{where}: give one label a point.")
        for label in self.labels:
            if label not in labels:
                raise ValueError(
                    f"Label {label}{where} means nothing: accepted are 1, a positive point on the object, and 0, a "
                    "negative point beside it. A box is not two points with labels, but given as a box."
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
        """The same on a frame of (height, width) `size` that was resized to `new_size`.

        A mask keeps the nearest pixels; one so thin or small that none would be left keeps every pixel it touches.
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
        """As in JSON files. A mask is only named: its pixels are in the results."""
        shown = {
            "points": [list(point) for point in self.points],
            "labels": self.labels,
            "box": self.box and list(self.box),
            "mask": self.mask is not None,
        }
        return {name: value for name, value in shown.items() if value}

    @classmethod
    def from_json(cls, given: Any, where: str = "") -> ObjectPrompts:
        """What `as_json` gives, read back: `{"points": [[x, y], ...], "labels": [1, ...], "box": [x0, y0, x1, y1]}`.

        Points without labels are positive. Other names (such as `frame`) are not looked at.

        Raises:
            ValueError: for another form; it names the field.
        """
        if not isinstance(given, dict):
            raise ValueError(f'The prompts{where} are an object with "points", "labels" or "box"; got {given!r}.')
        if given.get("mask"):
            raise ValueError(f"The prompts{where} name a mask, which JSON does not hold: give points or a box.")
        points = read_nested(given.get("points") or [], 2, f"points{where}", "[[x, y], ...]", width=2)
        labels = given.get("labels")
        labels = [POSITIVE] * len(points) if labels is None else read_labels(labels, 1, f"labels{where}", "[1, 0, ...]")
        box = given.get("box") or None
        if box is not None:
            (box,) = read_nested([box], 2, f"box{where}", "[x0, y0, x1, y1]", width=4)
        return cls([tuple(point) for point in points], labels, box)


# Frame -> object id -> prompts.
Prompts = dict[int, dict[int, ObjectPrompts]]


def scaled_prompts(prompts: Prompts, size: Size, new_size: Size) -> Prompts:
    """Prompts in pixels of frames of (height, width) `size`, on the same frames resized to `new_size`."""
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
    """What `prompts_as_json` gives, read back; see `ObjectPrompts.from_json`. Nothing is checked against a frame.

    Raises:
        ValueError: for another form, an object without an id, a prompt without a frame, or two prompts for one object
            on one frame.
    """
    if not isinstance(given, list):
        raise ValueError(f"Prompts are a list of objects, got {type(given).__name__}.")
    prompts: Prompts = {}
    for number, one in enumerate(given):
        if not isinstance(one, dict) or not isinstance(one.get("prompts"), list):
            raise ValueError(f'Item {number} of the prompts needs "id" and a list "prompts"; got {one!r}.')
        object_id = _whole_number(one.get("id"), f'"id" of item {number}')
        for prompt in one["prompts"]:
            where = f" of object {object_id}"
            if not isinstance(prompt, dict):
                raise ValueError(f'A prompt{where} is an object with "frame" and "points" or "box"; got {prompt!r}.')
            frame = _whole_number(prompt.get("frame"), f'"frame" of a prompt{where}')
            where += f" on frame {frame}"
            on_frame = prompts.setdefault(frame, {})
            if object_id in on_frame:
                raise ValueError(f"There are two prompts{where}: join their points in one.")
            on_frame[object_id] = ObjectPrompts.from_json(prompt, where)
    return prompts


# ------------------------------------------------------------------------------------------------------------- checks


def check_mask(mask: Any, size: Size | None, where: str = "") -> np.ndarray:
    """One object's mask prompt as bool (height, width).

    Args:
        mask: an array, tensor, PIL image or nested lists: (height, width), possibly with leading ones; bool, integers
            (above zero: object) or floats (above 0.5).
        size: (height, width) of the frame, or `None` where it is not known.
        where: a phrase for messages.

    Raises:
        ValueError: for another shape, another size than the frame's, values that are not finite, integers below zero,
            or an empty mask.
    """
    mask = to_array(mask)
    while mask.ndim > 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise ValueError(f"A mask{where} holds numbers in shape (height, width), got {mask.dtype} {mask.shape}.")
    if size is not None and tuple(mask.shape) != tuple(size):
        raise ValueError(
            f"The mask{where} is {mask.shape[1]}x{mask.shape[0]} pixels, the frame is {size[1]}x{size[0]}. A mask has "
            "the size of its frame."
        )
    if mask.dtype.kind == "f":
        if not np.isfinite(mask).all():
            raise ValueError(f"The mask{where} has values that are not finite.")
        mask = mask > 0.5
    elif mask.dtype.kind == "i" and (mask < 0).any():
        raise ValueError(f"The mask{where} has values below 0: give True, or a number above 0, where the object is.")
    mask = mask != 0
    if not mask.any():
        raise ValueError(f"The mask{where} is empty. To say that an object has left, add negative points instead.")
    return mask


def _check_point(point: Sequence[float], size: Size, where: str) -> None:
    (x, y), (height, width) = point, size
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"Point ({x}, {y}){where} is not a place: coordinates must be finite numbers.")
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(f"Point ({x:g}, {y:g}){where} is outside the frame, which is {width} wide and {height} high.")


def _check_box(box: Box, size: Size, where: str) -> None:
    height, width = size
    x0, y0, x1, y1 = box
    shown = "({:g}, {:g}, {:g}, {:g})".format(*box)
    if not all(math.isfinite(value) for value in box):
        raise ValueError(f"Box {shown}{where} is not a place: coordinates must be finite numbers.")
    if x0 >= x1 or y0 >= y1:
        raise ValueError(
            f"Box {shown}{where} is empty: it is x0, y0, x1, y1 with x0 < x1 and y0 < y1, top-left corner first."
        )
    if not (0 <= x0 and x1 <= width and 0 <= y0 and y1 <= height):
        raise ValueError(f"Box {shown}{where} is outside the frame, which is {width} wide and {height} high.")


def _whole_number(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} is a whole number, got {value!r}.")
    return int(value)


def read_nested(value: Any, depth: int, name: str, form: str, width: int | None = None) -> list:
    """Numbers nested `depth` levels deep in any mixture of lists, tuples, arrays and tensors, as lists of floats.

    Args:
        name, form: for messages: what it is, and how it is nested.
        width: how many numbers the innermost lists have; `None` for any number.

    Raises:
        ValueError: for another depth, other numbers of numbers, or what is no number.
    """

    def wrong(what: str) -> ValueError:
        return ValueError(f"Input {name} must be nested as {form}, {depth} levels of lists, arrays or tensors; {what}.")

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
            raise wrong(f"got {part!r} where {levels} more level{'s' if levels > 1 else ''} would be")
        return float(part)

    return read(value, depth)


def read_labels(value: Any, depth: int, name: str, form: str) -> list:
    """As `read_nested`, for labels: whole numbers.

    Raises:
        ValueError: as there, and for numbers that are not whole.
    """

    def whole(part: Any) -> Any:
        if isinstance(part, list):
            return [whole(item) for item in part]
        if not math.isfinite(part) or part != int(part):
            raise ValueError(f"Input {name} must be whole numbers, got {part:g}.")
        return int(part)

    return whole(read_nested(value, depth, name, form))


# ----------------------------------------------------------------------------------------------------- for the network


def scale_points(points: Any, size: Size, new_size: Size, dtype: type = np.float64) -> np.ndarray:
    """(K, 2) points (x, y) of a frame of (height, width) `size` in pixels of the same frame resized to `new_size`."""
    points = np.asarray(points, dtype).reshape(-1, 2)
    # Divide first, as the published code does: the same rounding.
    return points / np.array(size[::-1], dtype) * np.array(new_size[::-1], dtype)


def frame_prompts(prompts: ObjectPrompts, size: Size | None, input_size: Size, resize: Resize) -> FramePrompts:
    """Checked prompts in pixels of the frame as the network takes them. A box becomes its two corners, ahead of points.

    Args:
        prompts: points and a box, or a mask.
        size: (height, width) of the frame; a mask alone does not need it.
        input_size: (height, width) of the network's input.
        resize: how a mask is resized.
    """
    if prompts.mask is not None:
        return FramePrompts(mask=mask_for_network(prompts.mask, input_size, resize)[None, None])
    assert size is not None  # as `ObjectPrompts.check` has seen
    points, labels = list(prompts.points), list(prompts.labels)
    if prompts.box is not None:
        points = [prompts.box[:2], prompts.box[2:], *points]
        labels = [TOP_LEFT, BOTTOM_RIGHT, *labels]
    return FramePrompts(scale_points(points, size, input_size, np.float32)[None], np.array([labels], np.int64))


def mask_for_network(mask: np.ndarray, input_size: Size, resize: Resize) -> np.ndarray:
    """A bool mask of any size as float32 of 0 and 1 at the network's input size.

    A cell that the mask covers by half or more is the object's. A mask so thin or small that nothing of it would be
    left in the mask decoder's masks, at a quarter of that size, keeps every cell of those that it touches.
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
    """Which cells of a grid of (rows, columns) `size`, laid over a bool mask, hold any of it."""
    covered = _nearest(mask, size)
    rows, columns = np.nonzero(mask)
    rows = ((rows + 0.5) * size[0] / mask.shape[0]).astype(int)
    columns = ((columns + 0.5) * size[1] / mask.shape[1]).astype(int)
    covered[rows, columns] = True
    return covered


def _nearest(mask: np.ndarray, size: Size) -> np.ndarray:
    """A mask resized by taking for each new pixel the one that its centre lies in."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int).clip(0, old - 1)
        for old, new in zip(mask.shape, size, strict=True)
    )
    return mask[rows[:, None], columns]
