"""labelme: a JSON file for each frame, with the outlines of the objects as polygons.

https://github.com/wkentaro/labelme. A shape's `label` is the name of the object and its `group_id` the object's id.
labelme draws a polygon through the centres of pixels, with the pixels under the outline; parts of an object and the
halves of a part with a hole are several shapes of one group, so that the drawn mask is exact.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_file import atomic_path
from ..image_io import decode, open_image
from ..polygons import mask_of_polygons, polygons_of_mask
from ..safe_names import reason_of, safe_name
from ..structured_files import field, read_json
from .annotations import AddFile, AnnotatedFrame, AnnotatedMedia, Annotation, AnnotationError, ObjectIds


__all__ = ["read_labelme", "write_labelme"]

VERSION = "5.5.0"  # the version of labelme whose form the files have
MAX_BYTES = 2**28


def write_labelme(media: AnnotatedMedia, add: AddFile) -> None:
    """Write `<name>/<frame>.json` for each frame of a video, or `<name>.json` for an image."""
    height, width = media.known_size
    for frame in media.frames():
        shapes = []
        for one in frame.visible:
            shape = {"label": media.label(one.object_id), "group_id": one.object_id, "description": ""}
            if one.mask is None:
                x, y, w, h = one.box
                corners = [[x, y], [x + w, y + h]]
                shapes.append({**shape, "points": corners, "shape_type": "rectangle", "flags": {}, "mask": None})
                continue
            for polygon in polygons_of_mask(one.pixels()):
                shapes.append({**shape, "points": polygon, "shape_type": "polygon", "flags": {}, "mask": None})
        stem = safe_name(frame.name) if media.is_video else safe_name(Path(media.name).stem)
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{stem}.jpg" if media.is_video else media.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        name = f"{safe_name(media.name)}/{stem}.json" if media.is_video else f"{stem}.json"
        with atomic_path(add(name)) as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_labelme(path: Path) -> AnnotatedMedia:
    """Read one file, or the files of a folder, which are named as the frames are.

    Raises:
        AnnotationError: if a file has another form, or the sizes differ.
    """
    ids, labels = ObjectIds(), {}
    size = None
    frames = []
    for file in [path] if path.is_file() else sorted(path.glob("*.json")):
        where = f"The file '{file}'"
        content = read_json(file, error=AnnotationError, what="file of labelme", max_bytes=MAX_BYTES)
        own = tuple(
            field(content, n, int, where, error=AnnotationError, least=1, most=2**20)
            for n in ("imageHeight", "imageWidth")
        )
        if size is not None and own != size:
            raise AnnotationError(f"{where} is of {own[1]}x{own[0]} pixels, others are of {size[1]}x{size[0]}.")
        size = own[0], own[1]
        masks: dict[int, np.ndarray] = {}
        seen: Counter[str] = Counter()
        for number, shape in enumerate(field(content, "shapes", list, where, error=AnnotationError)):
            place = f"{where}, shapes[{number}]"
            label = field(shape, "label", str, place, error=AnnotationError)
            group = shape.get("group_id")
            seen[label] += 1
            # Without a group, the first shape of a label is the same object on every frame, and so is the second.
            key = ("group", group) if isinstance(group, int) else ("label", label, seen[label])
            mask = _mask(shape, size, place)
            if mask is None:
                continue
            object_id = ids.of(key, group)
            labels[object_id] = label
            masks[object_id] = masks[object_id] | mask if object_id in masks else mask
        objects = [Annotation.of_mask(object_id, mask) for object_id, mask in masks.items()]
        frames.append(AnnotatedFrame(-1, file.stem, objects))
    return AnnotatedMedia.of_frames(f"'{path}'", size, frames, labels)


def _mask(shape: Mapping[str, Any], size: tuple[int, int], where: str) -> np.ndarray | None:
    """The mask of a shape; `None` for points and lines, which have no area."""
    kind = field(shape, "shape_type", str, where, error=AnnotationError, default="polygon")
    points = field(shape, "points", list, where, error=AnnotationError)
    if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(n, int | float) for n in p) for p in points):
        raise AnnotationError(f"{where}: 'points' must be [[x, y], ...].")
    try:
        if kind == "polygon":
            return mask_of_polygons([[n for point in points for n in point]], size, where)
        if kind == "rectangle" and len(points) == 2:
            (x0, y0), (x1, y1) = points
            return mask_of_polygons([[x0, y0, x1, y0, x1, y1, x0, y1]], size, where)
        if kind == "mask" and len(points) == 2:
            return _painted(shape.get("mask"), points, size)
    except (ValueError, OverflowError, OSError, SyntaxError) as error:
        raise AnnotationError(f"{where}: the shape cannot be read: {reason_of(error)}") from error
    return None


def _painted(text: Any, corners: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """The mask of a shape that holds a PNG of its box, whose corners are pixels of the image."""
    if not isinstance(text, str):
        raise ValueError("its mask must be a PNG as base64")
    try:
        image = open_image(io.BytesIO(base64.b64decode(text, validate=True)))
    except binascii.Error as error:
        raise ValueError("its mask must be a PNG as base64") from error
    decode(image, "its mask")
    left, top = (int(n) for n in corners[0])
    width, height = image.size
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(f"its mask of {width}x{height} pixels does not lie in the image")
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = np.array(image.convert("L")) > 0
    return mask
