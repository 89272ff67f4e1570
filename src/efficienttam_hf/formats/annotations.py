"""What all formats share: the annotations of one video or image, frame by frame, and an order by object.

A format's writer goes through the frames of an :class:`AnnotatedMedia`, which reads them one by one, so that RAM use
does not depend on the length of the video. Formats that store one object after the other use :class:`ByObject`, which
keeps the annotations in a temporary file. Masks stay run lengths until their pixels are needed.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..atomic_file import atomic_path
from ..mask_io import box_and_area, decode_rle, encode_rle
from ..safe_names import shown


__all__ = ["AddFile", "AnnotatedFrame", "AnnotatedMedia", "Annotation", "AnnotationError", "ByObject", "write_json"]

UNNAMED = "object"  # the label of objects without one, as most formats need a label
MAX_FRAMES = 10_000_000  # the largest frame number that is read
MAX_OBJECTS = 255  # as many objects as an indexed PNG has ids
Box = tuple[float, float, float, float]
AddFile = Callable[[str], Path]  # from a relative name to the path to write, such as `OutputFolder.add`


class AnnotationError(ValueError):
    """A file of annotations cannot be read; the message names the file, the problem and what is accepted."""


@dataclass(frozen=True)
class Annotation:
    """One object on one frame.

    Attributes:
        object_id: the id of the object.
        box: (x, y, width, height) in pixels; x and y are the left and upper edge, so a pixel at 0 has x = 0, width = 1.
        mask: COCO run lengths; `None` if there is only a box.
        score: the probability that the object is on the frame, or another score from 0 to 1.
    """

    object_id: int
    box: Box
    mask: dict[str, Any] | None = None
    score: float = 1.0

    @property
    def is_visible(self) -> bool:
        """Whether the box has an area. The objects of results that are not on a frame have none."""
        return self.box[2] > 0 and self.box[3] > 0

    def pixels(self) -> np.ndarray:
        """The mask, bool (height, width).

        Raises:
            VideoError: if there is no mask, or it is damaged.
        """
        return decode_rle(self.mask or {})

    @staticmethod
    def of_mask(object_id: int, mask: np.ndarray, score: float = 1.0) -> Annotation:
        """The annotation of a mask, bool (height, width)."""
        return Annotation(object_id, tuple(box_and_area(mask)["bbox"]), encode_rle(mask), score)


@dataclass(frozen=True)
class AnnotatedFrame:
    """The annotations of one frame.

    Attributes:
        index: the number of the frame in the whole video; -1 if only its name is known.
        name: the name of the frame in file names; empty if it is unknown.
        objects: the annotations.
    """

    index: int
    name: str = ""
    objects: list[Annotation] = field(default_factory=list)

    @property
    def visible(self) -> list[Annotation]:
        """The annotations of the objects that are on the frame."""
        return [one for one in self.objects if one.is_visible]


@dataclass(frozen=True)
class AnnotatedMedia:
    """The annotations of one video or image.

    Attributes:
        name: the name of the video or image.
        size: (height, width) in pixels; `None` if the format does not say.
        frames: returns an iterator over the annotated frames, ascending, from the first one each time it is called.
        object_ids: the ids of the objects, ascending.
        num_frames: the number of frames up to the last annotated one.
        fps: frames per second of a video; `None` if unknown.
        is_video: whether it is a video.
        labels: the names of objects or their classes by object id; objects without a name are missing.
    """

    name: str
    size: tuple[int, int] | None
    frames: Callable[[], Iterator[AnnotatedFrame]]
    object_ids: list[int]
    num_frames: int
    fps: float | None = None
    is_video: bool = True
    labels: Mapping[int, str] = field(default_factory=dict)

    @property
    def known_size(self) -> tuple[int, int]:
        """(height, width), which a writer needs.

        Raises:
            AnnotationError: if the size is unknown.
        """
        if self.size is None:
            raise AnnotationError(f"The size of '{self.name}' is not known, and the format needs it.")
        return self.size

    def label(self, object_id: int) -> str:
        """The name of an object, `"object"` if it has none."""
        return self.labels.get(object_id) or UNNAMED

    @property
    def categories(self) -> dict[str, int]:
        """The labels of all objects, numbered from 1."""
        labels = dict.fromkeys(self.label(object_id) for object_id in self.object_ids)
        return {label: number for number, label in enumerate(labels, start=1)}

    @staticmethod
    def of_frames(
        name: str,
        size: tuple[int, int] | None,
        frames: Iterable[AnnotatedFrame],
        labels: Mapping[int, str] | None = None,
        **properties: Any,
    ) -> AnnotatedMedia:
        """Annotations that were read from a file. Several entries of a frame are joined; the frames are sorted.

        Raises:
            AnnotationError: if an object is on a frame twice, or there are no annotations or too many objects.
        """
        joined: dict[tuple[int, str], AnnotatedFrame] = {}
        for frame in frames:
            key = (frame.index, "" if frame.index >= 0 else frame.name)
            joined.setdefault(key, AnnotatedFrame(frame.index, frame.name)).objects.extend(frame.objects)
        found = sorted(joined.values(), key=lambda frame: (frame.index, frame.name))
        for frame in found:
            ids = [one.object_id for one in frame.objects]
            if len(set(ids)) < len(ids):
                twice = next(i for i in ids if ids.count(i) > 1)
                where = frame.index if frame.index >= 0 else shown(frame.name)
                raise AnnotationError(f"{name}: object {twice} is on frame {where} twice; give each object its own id.")
        object_ids = sorted({one.object_id for frame in found for one in frame.visible})
        if not object_ids:
            raise AnnotationError(f"{name} has no masks or boxes.")
        if len(object_ids) > MAX_OBJECTS:
            raise AnnotationError(f"{name} has {len(object_ids)} objects; up to {MAX_OBJECTS} are accepted.")
        num_frames = max(len(found), found[-1].index + 1)
        labels = {i: label for i, label in (labels or {}).items() if label and label != UNNAMED}
        return AnnotatedMedia(name, size, lambda: iter(found), object_ids, num_frames, labels=labels, **properties)


class ObjectIds:
    """Gives the objects of a file ids from 1 to 255: their own where possible, and free ones to the others."""

    def __init__(self) -> None:
        self._ids: dict[Any, int] = {}

    def of(self, key: Any, wanted: Any = None) -> int:
        """The id of an object.

        Args:
            key: what identifies the object in the file.
            wanted: the id that it should have, if this is a whole number from 1 to 255 that no object has yet.

        Raises:
            AnnotationError: if there are more than 255 objects.
        """
        if key not in self._ids:
            taken = set(self._ids.values())
            is_free = isinstance(wanted, int) and not isinstance(wanted, bool) and wanted not in taken
            if not (is_free and 1 <= wanted <= MAX_OBJECTS):
                wanted = next((i for i in range(1, MAX_OBJECTS + 1) if i not in taken), None)
            if wanted is None:
                raise AnnotationError(f"There are more than {MAX_OBJECTS} objects; a tracker takes up to that many.")
            self._ids[key] = wanted
        return self._ids[key]


class ByObject:
    """The visible annotations of a video in the order of objects, in a temporary file. A context manager.

    In RAM there is a number of 8 bytes for each object on each frame.

    Args:
        media: the annotations.
        folder: an existing folder for the temporary file.
    """

    def __init__(self, media: AnnotatedMedia, folder: Path):
        self._media, self._folder = media, folder
        self._offsets: dict[int, array] = {object_id: array("q") for object_id in media.object_ids}

    def __enter__(self) -> ByObject:
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 -- closed on exit
        for frame in self._media.frames():
            for one in frame.visible:
                self._offsets[one.object_id].append(self._file.tell())
                row = [frame.index, frame.name, one.object_id, one.box, one.mask, one.score]
                self._file.write(json.dumps(row).encode() + b"\n")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[int]:
        """The ids of the objects that are on at least one frame, ascending."""
        return (object_id for object_id in self._media.object_ids if self._offsets[object_id])

    def annotations(self, object_id: int) -> Iterator[tuple[int, Annotation]]:
        """The number of each frame on which an object is, ascending, and its annotation."""
        for offset in self._offsets[object_id]:
            self._file.seek(offset)
            index, _, _, box, mask, score = json.loads(self._file.readline())
            yield index, Annotation(object_id, tuple(box), mask, score)


def write_json(path: Path, header: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]) -> None:
    """Write a JSON object with some values, and with lists of which one item at a time is in RAM."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("{")
        file.write(", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in header.items()))
        for number, (name, items) in enumerate(lists.items()):
            file.write(f"{',' if number or header else ''}\n{json.dumps(name)}: ")
            write_items(file, items)
        file.write("}\n")


def write_items(file: Any, items: Iterable[Any]) -> None:
    """Write a JSON list item by item, each on its own line."""
    file.write("[\n")
    for number, item in enumerate(items):
        file.write((",\n" if number else "") + json.dumps(item))
    file.write("\n]")


def checked_box(box: Any, where: str) -> Box:
    """A box (x, y, width, height) from a file as four finite floats.

    Raises:
        AnnotationError: if it is anything else, or its width or height is not above 0.
    """
    if isinstance(box, list | tuple) and len(box) == 4:
        numbers = [n for n in box if isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < 1e9]
        if len(numbers) == 4 and numbers[2] > 0 and numbers[3] > 0:  # NaN is not below 1e9
            return float(numbers[0]), float(numbers[1]), float(numbers[2]), float(numbers[3])
    raise AnnotationError(f"{where}: a box is [x, y, width, height] in pixels, got {shown(box)}.")


def of_rle(object_id: int, rle: dict[str, Any], score: float = 1.0) -> Annotation:
    """The annotation of checked run lengths. An empty mask gives one that is not visible."""
    return Annotation(object_id, tuple(box_and_area(decode_rle(rle))["bbox"]), rle, score)
