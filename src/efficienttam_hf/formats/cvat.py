"""CVAT for video XML 1.1: masks, polygons or boxes as tracks.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/. CVAT tracks boxes and polygons through the frames of
a video, and keeps each mask as a shape of one frame: in the file, a track of one mask. The masks of an object are in
one group, whose number is the object's id. A polygon is the outline of an object's largest part; masks are exact.

Files are read without building a tree, and those with a document type or entities are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import TextIOBase
from pathlib import Path, PurePosixPath
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from ..atomic_file import atomic_path
from ..mask_io import checked_runs, mask_size
from ..polygons import rle_of_polygons
from ..safe_names import one_line, reason_of, shown
from .annotations import (
    MAX_FRAMES,
    AddFile,
    AnnotatedFrame,
    AnnotatedMedia,
    Annotation,
    AnnotationError,
    ByObject,
    ObjectIds,
    checked_box,
    of_rle,
)


__all__ = ["read_cvat", "write_cvat_boxes", "write_cvat_masks", "write_cvat_polygons"]

NAME = "annotations.xml"
MAX_BYTES, MAX_VALUE = 2**31, 2**24  # of a file, and characters of one attribute or text
SHAPES = ("box", "mask", "polygon")
DETAIL = 0.5  # pixels by which the outline of a polygon may differ from that of its mask
FINER = 2


# ------------------------------------------------------------------------------------------------------------- writing


def write_cvat_masks(media: AnnotatedMedia, add: AddFile) -> None:
    """Write `annotations.xml` with masks as run lengths."""
    with _document(media, add(NAME), "mask") as xml:
        number = 0
        for frame in media.frames():
            for one in frame.visible:
                mask = _mask_attributes(one)
                with xml.element("track", id=number, label=media.label(one.object_id), group_id=one.object_id):
                    xml.shape("mask", frame.index, False, mask)
                    if frame.index + 1 < media.num_frames:  # there the shape ends
                        xml.shape("mask", frame.index + 1, True, mask)
                number += 1


def write_cvat_boxes(media: AnnotatedMedia, add: AddFile) -> None:
    """Write `annotations.xml` with the boxes of each object as a track."""
    _write_tracks(media, add(NAME), "box", _box_attributes)


def write_cvat_polygons(media: AnnotatedMedia, add: AddFile) -> None:
    """Write `annotations.xml` with the outline of each object's largest part as a track."""
    _write_tracks(media, add(NAME), "polygon", _polygon_attributes)


def _write_tracks(
    media: AnnotatedMedia, path: Path, kind: str, attributes: Callable[[Annotation], dict[str, Any]]
) -> None:
    with ByObject(media, path.parent) as objects, _document(media, path, kind) as xml:
        for object_id in objects:
            with xml.element("track", id=object_id, label=media.label(object_id)):
                last = -1
                shape: dict[str, Any] = {}
                for index, one in objects.annotations(object_id):
                    if shape and index > last + 1:
                        xml.shape(kind, last + 1, True, shape)
                    last, shape = index, attributes(one)
                    xml.shape(kind, index, False, shape)
                if last + 1 < media.num_frames:
                    xml.shape(kind, last + 1, True, shape)


def _box_attributes(one: Annotation) -> dict[str, Any]:
    x, y, width, height = one.box
    return {"xtl": f"{x:g}", "ytl": f"{y:g}", "xbr": f"{x + width:g}", "ybr": f"{y + height:g}"}


def _mask_attributes(one: Annotation) -> dict[str, Any]:
    if one.mask is None:
        raise AnnotationError("CVAT's masks need masks, and there are only boxes; cvat-boxes takes them.")
    left, top, width, height = (int(n) for n in one.box)
    part = one.pixels()[top : top + height, left : left + width].ravel()
    edges = np.flatnonzero(np.diff(part)) + 1
    runs = np.diff([0, *edges, part.size]).tolist()
    if part[0]:
        runs.insert(0, 0)
    text = ", ".join(map(str, runs))
    return {"rle": text, "left": left, "top": top, "width": width, "height": height}


def _polygon_attributes(one: Annotation) -> dict[str, Any]:
    import cv2

    if one.mask is None:
        x, y, width, height = one.box
        points = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
    else:
        # A contour runs through the centres of pixels; with four pixels for one, it is close to their edges.
        filled = one.pixels().astype(np.uint8).repeat(FINER, axis=0).repeat(FINER, axis=1)
        parts, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        largest = max(parts, key=lambda part: (cv2.contourArea(part), len(part)))
        contour = (cv2.approxPolyDP(largest, DETAIL * FINER, True)[:, 0] + 0.5) / FINER
        points = contour.tolist()
        points += points[-1:] * (3 - len(points))
    return {"points": ";".join(f"{x:.2f},{y:.2f}" for x, y in points)}


class _Writer:
    """Writes elements one after the other."""

    def __init__(self, file: TextIOBase):
        self._xml = XMLGenerator(file, "utf-8", short_empty_elements=True)

    @contextmanager
    def element(self, name: str, /, **attributes: Any) -> Iterator[None]:
        self._xml.startElement(name, AttributesImpl({key: one_line(value) for key, value in attributes.items()}))
        yield
        self._xml.endElement(name)
        self._xml.ignorableWhitespace("\n")

    def text(self, name: str, content: Any) -> None:
        self._xml.startElement(name, AttributesImpl({}))
        self._xml.characters(one_line(content))
        self._xml.endElement(name)

    def shape(self, kind: str, frame: int, outside: bool, attributes: Mapping[str, Any]) -> None:
        state = {"frame": frame, "keyframe": 1, "outside": int(outside), "occluded": 0}
        with self.element(kind, **state, **attributes, z_order=0):
            pass


@contextmanager
def _document(media: AnnotatedMedia, path: Path, kind: str) -> Iterator[_Writer]:
    """The file with its description of the task; the tracks are written in the block."""
    height, width = media.known_size
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n')
        xml = _Writer(file)
        with xml.element("annotations"):
            xml.text("version", "1.1")
            with xml.element("meta"), xml.element("task"):
                xml.text("name", media.name)
                xml.text("size", media.num_frames)
                xml.text("mode", "interpolation")
                xml.text("start_frame", 0)
                xml.text("stop_frame", media.num_frames - 1)
                with xml.element("labels"):
                    for label in media.categories:
                        with xml.element("label"):
                            xml.text("name", label)
                            xml.text("type", {"box": "rectangle"}.get(kind, kind))
                            xml.text("attributes", "")
                with xml.element("original_size"):
                    xml.text("width", width)
                    xml.text("height", height)
            yield xml


# ------------------------------------------------------------------------------------------------------------- reading


def read_cvat(path: Path, size: tuple[int, int]) -> AnnotatedMedia:
    """Read a file of CVAT for videos, or for images: the shapes of keyframes.

    Args:
        path: the file.
        size: (height, width) of the video's frames, used if the file does not say its own.

    Raises:
        AnnotationError: if the file is not XML of this form, has a document type or entities, or is too large.
    """
    if path.stat().st_size > MAX_BYTES:
        raise AnnotationError(f"The file '{path}' has {path.stat().st_size} bytes; at most {MAX_BYTES} are accepted.")
    reader = _Reader(f"The file '{path}'", size)
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = reader.refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise AnnotationError(f"The file '{path}' is not XML that can be read: {reason_of(error)}") from error
    return AnnotatedMedia.of_frames(f"The file '{path}'", reader.size, reader.frames, reader.labels)


class _Reader:
    """Collects the shapes of a file while it is parsed.

    Attributes:
        size: (height, width) by the file.
        frames, labels: what was found.
    """

    def __init__(self, where: str, size: tuple[int, int]):
        self.where, self.size = where, size
        self.frames: list[AnnotatedFrame] = []
        self.labels: dict[int, str] = {}
        self._ids = ObjectIds()
        self._open: list[tuple[str, dict[str, str]]] = []
        self._text = ""
        self._sizes: dict[str, int] = {}
        self._images = 0

    def refuse(self, *_: Any) -> None:
        raise AnnotationError(f"{self.where} has a document type or entities, which are not read.")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "annotations":
            raise AnnotationError(f"{self.where} is not of CVAT: it begins with {shown(name)}, not 'annotations'.")
        if len(self._open) > 20:
            raise AnnotationError(f"{self.where} is nested too deeply to be of CVAT.")
        self._text = ""
        holder = self._open[-1] if self._open else ("", {})
        self._open.append((name, attributes))
        if name == "image":
            self._images += 1
        if name in SHAPES and holder[0] in ("track", "image"):
            self._shape(name, attributes, *holder)

    def end(self, name: str) -> None:
        self._open.pop()
        if name in ("height", "width") and self._open and self._open[-1][0] == "original_size":
            self._sizes[name] = self._whole(self._text.strip(), name, 2**20)
            if len(self._sizes) == 2:
                self.size = (max(self._sizes["height"], 1), max(self._sizes["width"], 1))

    def text(self, text: str) -> None:
        self._text = (self._text + text)[:100]

    def _shape(self, kind: str, given: dict[str, str], holder: str, held: dict[str, str]) -> None:
        if given.get("outside") == "1" or given.get("keyframe") == "0":
            return
        name = ""
        if holder == "track":
            index = self._whole(given.get("frame"), "frame", MAX_FRAMES)
            label, group = held.get("label", ""), held.get("group_id")
            key, wanted = ("track", held.get("id")), held.get("id")
        else:
            index = self._whole(held.get("id"), "id", MAX_FRAMES)
            name = PurePosixPath(held.get("name", "")).stem
            label, group = given.get("label", ""), given.get("group_id")
            key, wanted = ("shape", str(len(self.frames))), None
        if group and group != "0":
            key, wanted = ("group", group), group
        number = int(wanted) if wanted and wanted.isdecimal() and len(wanted) < 10 else None
        object_id = self._ids.of(key, number)
        if label:
            self.labels[object_id] = label
        place = f"{self.where}, frame {index}, object {object_id}"
        self.frames.append(AnnotatedFrame(index, name, [getattr(self, f"_{kind}")(object_id, given, place)]))

    def _box(self, object_id: int, given: dict[str, str], where: str) -> Annotation:
        left, top, right, bottom = (self._number(given, side, where) for side in ("xtl", "ytl", "xbr", "ybr"))
        return Annotation(object_id, checked_box([left, top, right - left, bottom - top], where))

    def _polygon(self, object_id: int, given: dict[str, str], where: str) -> Annotation:
        text = given.get("points", "")
        try:
            numbers = [float(n) for n in text.replace(";", ",").split(",")]
            rle = rle_of_polygons([numbers], self.size, where)
        except ValueError as error:
            raise AnnotationError(f"{where}: 'points' must be 'x,y;x,y;...', got {shown(text)}.") from error
        return of_rle(object_id, rle)

    def _mask(self, object_id: int, given: dict[str, str], where: str) -> Annotation:
        left, top, width, height = (self._whole(given.get(n), n, 2**20) for n in ("left", "top", "width", "height"))
        text = given.get("rle", "")
        try:
            mask_size(self.size)
            if top + height > self.size[0] or left + width > self.size[1] or not width or not height:
                raise ValueError(f"it does not lie in the frame of {self.size[1]}x{self.size[0]} pixels")
            if len(text) > MAX_VALUE:
                raise ValueError("it is too long")
            runs = checked_runs([int(n) for n in text.split(",")], (height, width))
        except (ValueError, TypeError, OverflowError) as error:
            raise AnnotationError(f"{where}: the mask cannot be read ({reason_of(error)}).") from error
        mask = np.zeros(self.size, bool)
        part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        mask[top : top + height, left : left + width] = part
        return Annotation.of_mask(object_id, mask)

    def _whole(self, text: str | None, name: str, most: int) -> int:
        if not text or not text.isdecimal() or len(text) > 9 or int(text) > most:
            raise AnnotationError(f"{self.where}: {name!r} must be a whole number up to {most}, got {shown(text)}.")
        return int(text)

    def _number(self, given: dict[str, str], name: str, where: str) -> float:
        try:
            return float(given[name])
        except (KeyError, ValueError):
            raise AnnotationError(f"{where}: {name!r} must be a number, got {shown(given.get(name))}.") from None
