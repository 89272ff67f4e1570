"""MOT boxes: one line for each object on each frame, `frame,id,left,top,width,height,confidence,-1,-1,-1`.

https://motchallenge.net/instructions/. Frames, and the left and upper edges of boxes, are counted from 1. The format
has no labels and no masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from ..atomic_file import atomic_path
from ..safe_names import safe_name, shown
from .annotations import (
    MAX_FRAMES,
    AddFile,
    AnnotatedFrame,
    AnnotatedMedia,
    Annotation,
    AnnotationError,
    ObjectIds,
    checked_box,
)


__all__ = ["read_lines", "read_mot", "write_mot"]

MAX_LINE = 2**24  # characters of one line of a text file; a MOTS line holds a mask
MAX_BYTES = 2**31


def write_mot(media: AnnotatedMedia, add: AddFile) -> None:
    """Write `<name>.txt`."""
    with atomic_path(add(f"{safe_name(media.name)}.txt")) as temporary, temporary.open("w") as file:
        for frame in media.frames():
            for one in frame.visible:
                x, y, width, height = one.box
                values = (x + 1, y + 1, width, height, one.score)
                numbers = ",".join(f"{value:g}" for value in values)
                file.write(f"{frame.index + 1},{one.object_id},{numbers},-1,-1,-1\n")


def read_mot(path: Path) -> AnnotatedMedia:
    """Read results or ground truth (`gt.txt`, where lines with a confidence of 0 are ignored).

    Raises:
        AnnotationError: if a line is another.
    """
    ids, frames = ObjectIds(), []
    for place, line in read_lines(path):
        try:
            values = [float(part) for part in line.split(",")]
        except ValueError:
            values = []
        if not 6 <= len(values) <= 10 or not all(map(math.isfinite, values)):
            raise AnnotationError(
                f"{place}: a line is frame,id,left,top,width,height,confidence,..., got {shown(line)}."
            )
        index, track = int(values[0]) - 1, int(values[1])
        if not 0 <= index <= MAX_FRAMES:
            raise AnnotationError(f"{place}: frames are counted from 1, got {shown(values[0])}.")
        if track < 0:
            raise AnnotationError(f"{place}: the id is {track}; detections without ids cannot be tracked.")
        if len(values) > 6 and values[6] == 0:
            continue
        box = checked_box([values[2] - 1, values[3] - 1, values[4], values[5]], place)
        frames.append(AnnotatedFrame(index, "", [Annotation(ids.of(track, track), box)]))
    return AnnotatedMedia.of_frames(f"The file '{path}'", None, frames)


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not empty, each with its place for messages.

    Raises:
        AnnotationError: if the file is too large or not text.
    """
    if path.stat().st_size > MAX_BYTES:
        raise AnnotationError(f"The file '{path}' has {path.stat().st_size} bytes; at most {MAX_BYTES} are accepted.")
    with path.open(encoding="utf-8") as file:
        number = 0
        try:
            while line := file.readline(MAX_LINE):
                number += 1
                if line.strip():
                    yield f"The file '{path}', line {number}", line.strip()
        except UnicodeDecodeError as error:
            raise AnnotationError(f"The file '{path}' is not text in UTF-8.") from error
