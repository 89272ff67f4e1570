"""Reads the results of `track` and `segment` (`masks.json`) as annotations, frame by frame.

`track` writes each frame on its own line, and only one line at a time is in RAM. A file that another program wrote
again is read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..mask_io import checked_rle
from ..safe_names import shown
from ..structured_files import field, parse_json, read_json
from .annotations import MAX_FRAMES, MAX_OBJECTS, AnnotatedFrame, AnnotatedMedia, Annotation, AnnotationError


__all__ = ["read_header", "read_results", "result_frame"]

NAME = "masks.json"
MAX_LINE = 64 * 2**20  # bytes of one frame
FRAMES = b'"frames": ['


def read_results(path: Path) -> AnnotatedMedia:
    """The results in a folder, or in its file `masks.json`.

    Raises:
        FileNotFoundError: if there are no results.
        AnnotationError: if they are damaged; all frames are checked.
    """
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no results in '{path.parent}': `efficienttam track` and `segment` write {NAME}."
        )
    where = f"The results '{path}'"
    header = _header(path)
    if header is None:
        content = read_json(path, error=AnnotationError, what="file of results")
        return media_of_results(content, where)
    size = _size(field(header, "video", dict, where, error=AnnotationError), where)

    def frames() -> Iterator[AnnotatedFrame]:
        with path.open("rb") as file:
            while not file.readline(MAX_LINE).startswith(FRAMES):
                pass
            while (line := file.readline(MAX_LINE).strip()) and line != b"]}":
                yield result_frame(parse_json(line.rstrip(b","), where, error=AnnotationError), size, where)

    return _video(header, frames, where)


def read_header(path: Path) -> dict[str, Any]:
    """All fields of a file `masks.json` but its frames: prompts, labels and sizes. Their values are not checked.

    Raises:
        AnnotationError: if it is not a JSON file with a mapping.
    """
    header = _header(path)
    if header is None:
        content = read_json(path, error=AnnotationError, what="file of results")
        if not isinstance(content, dict):
            raise AnnotationError(f"The results '{path}' are not of efficienttam: {shown(content)} is no mapping.")
        header = {key: value for key, value in content.items() if key != "frames"}
    return header


def media_of_results(content: Any, where: str) -> AnnotatedMedia:
    """The results in the parsed content of a `masks.json`; see :func:`read_results`."""
    if not (isinstance(content, Mapping) and ("video" in content or "image" in content)):
        raise AnnotationError(f'{where} are not of efficienttam: "video" or "image" is missing.')
    if "video" in content:
        size = _size(field(content, "video", dict, where, error=AnnotationError), where)
        entries = field(content, "frames", list, where, error=AnnotationError)
        found = [result_frame(entry, size, where) for entry in entries]
        return _video(content, lambda: iter(found), where)
    image = field(content, "image", dict, where, error=AnnotationError)
    size, name = _size(image, where), field(image, "name", str, where, error=AnnotationError)
    only = result_frame({"frame": 0, "name": name, "objects": content.get("objects")}, size, where)
    ids = sorted(one.object_id for one in only.objects)
    return AnnotatedMedia(name, size, lambda: iter([only]), ids, 1, is_video=False, labels=_labels(content, where))


def result_frame(entry: Any, size: tuple[int, int], where: str) -> AnnotatedFrame:
    """A frame of `masks.json`, checked."""
    index = field(entry, "frame", int, where, error=AnnotationError, least=0, most=MAX_FRAMES)
    name = field(entry, "name", str, where, error=AnnotationError)
    place = f"{where}, frame {index}"
    objects: list[Annotation] = []
    for one in field(entry, "objects", list, place, error=AnnotationError):
        object_id = field(one, "id", int, place, error=AnnotationError, least=1, most=MAX_OBJECTS)
        if object_id in (before.object_id for before in objects):
            raise AnnotationError(f"{place} has object {object_id} twice.")
        score = field(one, "score", float, place, error=AnnotationError)
        rle = checked_rle(one.get("segmentation"), size, f"{place}, object {object_id}", AnnotationError)[0]
        box = field(one, "bbox", list, place, error=AnnotationError)
        if len(box) != 4 or not all(isinstance(n, int | float) and abs(n) < 1e9 for n in box):
            raise AnnotationError(f"{place}: 'bbox' must be [x, y, width, height].")
        objects.append(Annotation(object_id, (box[0], box[1], box[2], box[3]), rle, score))
    return AnnotatedFrame(index, name, objects)


def _header(path: Path) -> dict[str, Any] | None:
    """All of a file that `track` wrote but its frames; `None` if it has another form."""
    lines: list[bytes] = []
    with path.open("rb") as file:
        for line in iter(lambda: file.readline(MAX_LINE), b""):
            if line.startswith(FRAMES):
                text = b"".join(lines).strip().removesuffix(b",") + b"}"
                header = parse_json(text, f"The results '{path}'", error=AnnotationError)
                return header if isinstance(header, dict) and "video" in header else None
            lines.append(line)
            if len(lines) > 100:  # `track` writes fewer
                return None
    return None


def _video(header: Mapping[str, Any], frames: Any, where: str) -> AnnotatedMedia:
    video = field(header, "video", dict, where, error=AnnotationError)
    ids: set[int] = set()
    last = -1
    for frame in frames():
        if frame.index <= last:
            raise AnnotationError(f"{where}: frame {frame.index} comes after frame {last}; frames must ascend.")
        last = frame.index
        ids.update(one.object_id for one in frame.objects)
    name = field(video, "name", str, where, error=AnnotationError)
    fps = field(video, "fps", (float, type(None)), where, error=AnnotationError, default=None)
    size = _size(video, where)
    return AnnotatedMedia(name, size, frames, sorted(ids), last + 1, fps or None, True, _labels(header, where))


def _size(media: Mapping[str, Any], where: str) -> tuple[int, int]:
    height, width = (
        field(media, n, int, where, error=AnnotationError, least=1, most=2**20) for n in ("height", "width")
    )
    return height, width


def _labels(content: Mapping[str, Any], where: str) -> dict[int, str]:
    """The labels of objects by id, where they have one."""
    objects = field(content, "objects", list, where, error=AnnotationError, default=[])
    return {
        one["id"]: one["label"]
        for one in objects
        if isinstance(one, dict) and isinstance(one.get("id"), int) and isinstance(one.get("label"), str)
    }
