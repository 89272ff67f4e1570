"""MOTS: an image of 16 bits for each frame whose values are `1000 * class + object`, and the same as run lengths.

https://www.vision.rwth-aachen.de/page/mots, in the numbering of KITTI MOTS: frames are counted from 0. A pixel belongs
to one object: where masks overlap, to the object with the highest score on that frame. The text file has a line
`frame id class height width rle` for each object on each frame. Folders of indexed PNGs, as `track` and DAVIS have
them, are read too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic_file import atomic_path
from ..mask_io import checked_rle, encode_rle, read_mask_pixels
from ..mask_values import VOID, labels_of
from ..safe_names import safe_name, shown
from .annotations import (
    MAX_FRAMES,
    AddFile,
    AnnotatedFrame,
    AnnotatedMedia,
    Annotation,
    AnnotationError,
    ObjectIds,
    of_rle,
)
from .mot import read_lines


__all__ = ["read_mots_text", "read_png_folder", "write_mots"]

IGNORED_CLASS = 10  # pixels that nobody judged
PER_CLASS = 1000


def write_mots(media: AnnotatedMedia, add: AddFile) -> None:
    """Write `instances/<name>/<frame>.png` and `instances_txt/<name>.txt`.

    Raises:
        AnnotationError: if objects have no masks, or there are more than 64 labels, as many as 16 bits hold.
    """
    size, name = media.known_size, safe_name(media.name)
    numbers = {label: n if n < IGNORED_CLASS else n + 1 for label, n in media.categories.items()}
    if max(numbers.values(), default=0) > 64:
        raise AnnotationError(f"MOTS has up to 63 labels, '{media.name}' has {len(numbers)}.")
    with atomic_path(add(f"instances_txt/{name}.txt")) as temporary, temporary.open("w") as text:
        for frame in media.frames():
            values, best = np.zeros(size, np.uint16), np.full(size, -np.inf)
            kinds = {one.object_id: numbers[media.label(one.object_id)] for one in frame.visible}
            for one in frame.visible:
                if one.mask is None:
                    raise AnnotationError("MOTS needs masks, and there are only boxes.")
                own = one.pixels() & (best < one.score)
                values[own], best[own] = PER_CLASS * kinds[one.object_id] + one.object_id, one.score
            for object_id, kind in kinds.items():
                own = values == PER_CLASS * kind + object_id
                if own.any():
                    counts = encode_rle(own)["counts"]
                    line = f"{frame.index} {PER_CLASS * kind + object_id} {kind} {size[0]} {size[1]} {counts}\n"
                    text.write(line)
            with atomic_path(add(f"instances/{name}/{frame.index:06d}.png")) as png:
                Image.fromarray(values).save(png, format="PNG")


def read_mots_text(path: Path) -> AnnotatedMedia:
    """Read a text file of MOTS.

    Raises:
        AnnotationError: if a line is another.
    """
    ids, frames, size = ObjectIds(), [], None
    for place, line in read_lines(path):
        parts = line.split(" ")
        if len(parts) != 6 or not all(part.isdecimal() and len(part) < 10 for part in parts[:5]):
            raise AnnotationError(f"{place}: a line is frame id class height width rle, got {shown(line)}.")
        index, track, kind, height, width = map(int, parts[:5])
        if index > MAX_FRAMES:
            raise AnnotationError(f"{place}: the frame is {index}; up to {MAX_FRAMES} are accepted.")
        size = size or (height, width)
        if kind != IGNORED_CLASS:
            rle = checked_rle({"size": [height, width], "counts": parts[5]}, size, place, AnnotationError)[0]
            one = of_rle(ids.of(track, track % PER_CLASS), rle)
            frames.append(AnnotatedFrame(index, "", [one]))
    return AnnotatedMedia.of_frames(f"The file '{path}'", size, frames)


def read_png_folder(folder: Path) -> AnnotatedMedia:
    """Read a folder of annotation images, which are named as the frames are: of MOTS, or with object ids.

    Raises:
        AnnotationError, VideoError: if an image has no ids, or the sizes differ.
    """
    ids, size = ObjectIds(), None

    def read(path: Path) -> Iterator[Annotation]:
        nonlocal size
        pixels = read_mask_pixels(path, size)
        size = pixels.values.shape[:2]
        if pixels.mode.startswith("I"):
            values = pixels.values
            tracks = [int(v) for v in np.unique(values) if v and v // PER_CLASS != IGNORED_CLASS]
        else:
            values = labels_of(pixels, None)
            tracks = [int(v) for v in np.unique(values) if v not in (0, VOID)]
        for track in tracks:
            yield Annotation.of_mask(ids.of(track, track % PER_CLASS), values == track)

    frames = [AnnotatedFrame(-1, path.stem, list(read(path))) for path in sorted(folder.glob("*.png"))]
    return AnnotatedMedia.of_frames(f"The folder '{folder}'", size, frames)
