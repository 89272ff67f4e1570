"""Label Studio JSON: brushes for an image, rectangles on the timeline for a video, as predictions to be imported.

https://labelstud.io/guide/predictions and https://labelstud.io/tags/brushlabels. A brush is an image of four channels
in the run lengths of the library rle-pack; see :func:`encode_brush`. The rectangles of a video have coordinates in per
cent and frames counted from 1; Label Studio has no masks on videos.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ..atomic_file import atomic_path
from ..mask_io import mask_size
from ..polygons import mask_of_polygons
from ..safe_names import shown
from ..structured_files import field
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
    write_items,
)


__all__ = ["decode_brush", "encode_brush", "read_label_studio", "write_label_studio"]

NAME = "tasks.json"
CHANNELS, LONGEST_RUN = 4, 2**16  # of a brush; see `encode_brush`
REGION = "object_"


# ------------------------------------------------------------------------------------------------------------- writing


def write_label_studio(media: AnnotatedMedia, add: AddFile) -> None:
    """Write `tasks.json`, a list of one task."""
    path = add(NAME)

    with ByObject(media, path.parent) as objects:

        def tasks() -> Iterator[dict[str, Any]]:
            regions = _rectangles(media, objects) if media.is_video else _brushes(media)
            prediction = {"model_version": "efficienttam", "result": list(regions)}
            yield {"data": {"video" if media.is_video else "image": media.name}, "predictions": [prediction]}

        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            write_items(file, tasks())


def _brushes(media: AnnotatedMedia) -> Iterator[dict[str, Any]]:
    height, width = media.known_size
    for frame in media.frames():
        for one in frame.visible:
            value = {"format": "rle", "rle": encode_brush(one.pixels()), "brushlabels": [media.label(one.object_id)]}
            yield {
                "id": f"{REGION}{one.object_id}",
                "type": "brushlabels",
                "from_name": "tag",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": one.score,
                "value": value,
            }


def _rectangles(media: AnnotatedMedia, objects: ByObject) -> Iterator[dict[str, Any]]:
    height, width = media.known_size
    fps = media.fps or 25.0
    for object_id in objects:
        sequence: list[dict[str, Any]] = []
        for index, one in objects.annotations(object_id):
            if sequence and sequence[-1]["frame"] < index:
                sequence[-1]["enabled"] = False  # after that frame it is hidden until the next one
            x, y, w, h = one.box
            place = {"x": x * 100 / width, "y": y * 100 / height, "width": w * 100 / width, "height": h * 100 / height}
            sequence.append({"frame": index + 1, "enabled": True, "rotation": 0, **place, "time": (index + 1) / fps})
        sequence[-1]["enabled"] = False
        count = media.num_frames
        value = {"framesCount": count, "duration": count / fps, "sequence": sequence}
        yield {
            "id": f"{REGION}{object_id}",
            "type": "videorectangle",
            "from_name": "box",
            "to_name": "video",
            "original_width": width,
            "original_height": height,
            "value": {**value, "labels": [media.label(object_id)]},
        }


def encode_brush(mask: np.ndarray) -> list[int]:
    """Encode a mask, bool (height, width), as the `rle` of a brush: the bytes of a stream of bits.

    The stream is that of the library rle-pack, which Label Studio uses: the number of values (32 bits), the bits of a
    value less 1 (5 bits), four widths of lengths less 1 (4 bits each), and then the runs. A run is a 1, the number of
    a width (2 bits), its length less 1, and its value. The values are 0 or 255, four for each pixel, row by row.
    """
    pixels = mask.ravel()
    starts: np.ndarray = np.append(0, np.flatnonzero(pixels[1:] != pixels[:-1]) + 1)
    lengths = np.diff(starts, append=pixels.size) * CHANNELS
    pieces = -(-lengths // LONGEST_RUN)  # a longer run is written in pieces
    values: np.ndarray = np.repeat(pixels[starts], pieces)
    sizes = np.full(len(values), LONGEST_RUN)
    sizes[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * LONGEST_RUN
    # Every width is 16, so each run has 1 + 2 + 16 + 8 bits.
    runs = (1 << 26) + ((sizes - 1) << 8) + 255 * values.astype(np.int64)
    header = [(pixels.size * CHANNELS, 32), (8 - 1, 5), *[(16 - 1, 4)] * 4]
    bits = [np.array([number >> shift & 1 for shift in reversed(range(width))]) for number, width in header]
    bits.append((runs[:, None] >> np.arange(26, -1, -1) & 1).ravel())
    return np.packbits(np.concatenate(bits).astype(np.uint8)).tolist()


# ------------------------------------------------------------------------------------------------------------- reading


def decode_brush(rle: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask of a brush: bool (height, width), true where its last channel, the opacity, is not 0.

    Args:
        rle: the bytes of the stream; see :func:`encode_brush`.
        size: (height, width) of the image.

    Raises:
        ValueError: if the stream is damaged or of another size.
    """
    pixels = size[0] * size[1] * CHANNELS
    if not isinstance(rle, list) or not 8 <= len(rle) <= 2 * pixels + 1000:
        raise ValueError("it must be a list of bytes that is not longer than the image")
    if not all(type(n) is int and 0 <= n <= 255 for n in rle):
        raise ValueError("it must be a list of numbers from 0 to 255")
    text = "".join(f"{n:08b}" for n in rle)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        if place + count > len(text):
            raise ValueError("it is cut short")
        place += count
        return int(text[place - count : place], 2)

    if read(32) != pixels:
        raise ValueError(f"it is not of the size {size[1]}x{size[0]}")
    word = read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    values, found = np.zeros(pixels, bool), 0
    while found < pixels:
        is_run, count = read(1), read(widths[read(2)]) + 1
        if found + count > pixels:
            raise ValueError("its runs are longer than its size")
        if is_run:
            values[found : found + count] = read(word) > 0
        else:
            values[found : found + count] = [read(word) > 0 for _ in range(count)]
        found += count
    return values.reshape(*size, CHANNELS)[..., CHANNELS - 1]


def read_label_studio(content: Any, where: str, video: str, size: tuple[int, int]) -> AnnotatedMedia:
    """Read the parsed content of an export or a list of tasks: the annotations, or else the predictions.

    Args:
        content: the content: one task or a list.
        where: the name of the file, for messages.
        video: the name of the video, if there are several tasks.
        size: (height, width) of the video's frames, used where the file does not say its own.

    Raises:
        AnnotationError: if a field is invalid, or no task is of this video.
    """
    tasks = content if isinstance(content, list) else [content]
    task = _choose(tasks, where, video)
    made = [one for one in task.get("annotations") or [] if isinstance(one, dict) and not one.get("was_cancelled")]
    source = made or task.get("predictions") or []
    if not isinstance(source, list) or not source:
        raise AnnotationError(f"{where} has neither annotations nor predictions.")
    ids, labels, frames = ObjectIds(), {}, []
    for number, region in enumerate(field(source[0], "result", list, where, error=AnnotationError)):
        place = f"{where}, result[{number}]"
        value = field(region, "value", dict, place, error=AnnotationError)
        kind = field(region, "type", str, place, error=AnnotationError, default="")
        if kind not in ("videorectangle", "brushlabels", "brush", "rectanglelabels", "rectangle", "polygonlabels"):
            continue
        own = str(region.get("id", number))
        wanted = own.removeprefix(REGION)
        object_id = ids.of(own, int(wanted) if wanted.isdecimal() and len(wanted) < 10 else None)
        names = value.get("labels") or value.get(kind) or []
        if isinstance(names, list) and names and isinstance(names[0], str):
            labels[object_id] = names[0]
        height = field(region, "original_height", int, place, error=AnnotationError, default=size[0], least=1)
        width = field(region, "original_width", int, place, error=AnnotationError, default=size[1], least=1)
        size = height, width
        frames += list(_region(object_id, kind, value, size, place))
    return AnnotatedMedia.of_frames(where, size, frames, labels)


def _choose(tasks: list[Any], where: str, video: str) -> dict[str, Any]:
    if not tasks or not all(isinstance(task, dict) for task in tasks):
        raise AnnotationError(f"{where} is not a list of tasks of Label Studio.")
    if len(tasks) == 1:
        return tasks[0]
    for task in tasks:
        data = task.get("data")
        names = [v for v in data.values() if isinstance(v, str)] if isinstance(data, dict) else []
        if any(video in (PurePosixPath(name).stem, PurePosixPath(name).name) for name in names):
            return task
    raise AnnotationError(f"{where} has {len(tasks)} tasks, and none is of {shown(video)}.")


def _region(
    object_id: int, kind: str, value: Mapping[str, Any], size: tuple[int, int], where: str
) -> Iterator[AnnotatedFrame]:
    if kind == "videorectangle":
        for step in field(value, "sequence", list, where, error=AnnotationError):
            frame = field(step, "frame", int, where, error=AnnotationError, least=1, most=MAX_FRAMES)
            yield AnnotatedFrame(frame - 1, "", [Annotation(object_id, _box(step, size, where))])
        return
    if kind in ("rectanglelabels", "rectangle"):
        yield AnnotatedFrame(0, "", [Annotation(object_id, _box(value, size, where))])
        return
    try:
        mask_size(size)
        if kind == "polygonlabels":
            points = [[x * size[1] / 100, y * size[0] / 100] for x, y in value.get("points", [])]
            mask = mask_of_polygons([[n for point in points for n in point]], size, where)
        else:
            mask = decode_brush(value.get("rle"), size)
    except (ValueError, TypeError) as error:
        raise AnnotationError(f"{where}: the mask cannot be read: {shown(str(error))}.") from error
    yield AnnotatedFrame(0, "", [Annotation.of_mask(object_id, mask)])


def _box(given: Any, size: tuple[int, int], where: str) -> tuple[float, float, float, float]:
    x, y, width, height = (
        field(given, name, float, where, error=AnnotationError) for name in ("x", "y", "width", "height")
    )
    box = [x * size[1] / 100, y * size[0] / 100, width * size[1] / 100, height * size[0] / 100]
    return checked_box(box, where)
