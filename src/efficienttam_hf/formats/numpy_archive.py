"""A NumPy archive (`.npz`): masks, boxes, scores and labels as arrays, for `numpy.load`.

| array | shape and type |
| --- | --- |
| `frames` | (T,) int64, the numbers of the frames, ascending |
| `object_ids` | (N,) int64, ascending |
| `labels` | (N,) text |
| `boxes` | (T, N, 4) float32, (x, y, width, height) in pixels; zeros where an object is not on the frame |
| `scores` | (T, N) float32 |
| `masks` | (T, N, height, width) bool |

The file is compressed, and is written and read frame by frame. `numpy.load` reads an array as a whole, so `masks` takes
T * N * height * width bytes of RAM.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..atomic_file import atomic_path
from ..mask_io import MAX_MASK_PIXELS
from ..safe_names import reason_of
from .annotations import MAX_FRAMES, MAX_OBJECTS, AddFile, AnnotatedFrame, AnnotatedMedia, Annotation, AnnotationError


__all__ = ["read_numpy", "write_numpy"]

NAME = "masks.npz"
MAX_ITEMS = MAX_FRAMES * 4  # values of the arrays beside the masks


def write_numpy(media: AnnotatedMedia, add: AddFile) -> None:
    """Write `masks.npz`."""
    rows = {object_id: row for row, object_id in enumerate(media.object_ids)}
    indices = np.array([frame.index for frame in media.frames()], np.int64)
    boxes = np.zeros((len(indices), len(rows), 4), np.float32)
    scores = np.zeros((len(indices), len(rows)), np.float32)
    shape = (len(indices), len(rows), *media.known_size)
    with atomic_path(add(NAME)) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("masks.npy", "w", force_zip64=True) as file:
            header = {"descr": "|b1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for number, frame in enumerate(media.frames()):
                masks = np.zeros(shape[1:], bool)
                for one in frame.visible:
                    row = rows[one.object_id]
                    boxes[number, row], scores[number, row] = one.box, one.score
                    if one.mask is not None:
                        masks[row] = one.pixels()
                for mask in masks:
                    file.write(mask.tobytes())
        labels = np.array([media.label(object_id) for object_id in rows], dtype=np.str_)
        arrays = {"frames": indices, "object_ids": np.array(list(rows), np.int64), "labels": labels}
        for name, values in {**arrays, "boxes": boxes, "scores": scores}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def read_numpy(path: Path) -> AnnotatedMedia:
    """Read an archive of this form. `labels`, `scores` and `boxes` may be missing; nothing in it is executed.

    Raises:
        AnnotationError: if it is damaged, or an array has another form.
    """
    where = f"The file '{path}'"
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, where)
    except AnnotationError:
        raise
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise AnnotationError(f"{where} is not a NumPy archive that can be read: {reason_of(error)}") from error


def _read(archive: zipfile.ZipFile, where: str) -> AnnotatedMedia:
    frames = _array(archive, "frames", "iu", 1, where)
    object_ids = _array(archive, "object_ids", "iu", 1, where)
    names = {info.filename for info in archive.infolist()}
    ids = [int(n) for n in object_ids]
    if len(ids) > MAX_OBJECTS or len(set(ids)) < len(ids) or not all(1 <= n <= MAX_OBJECTS for n in ids):
        raise AnnotationError(f"{where}: 'object_ids' must be different whole numbers from 1 to {MAX_OBJECTS}.")
    if frames.size and not (0 <= frames.min() and frames.max() <= MAX_FRAMES):
        raise AnnotationError(f"{where}: 'frames' must be from 0 to {MAX_FRAMES}.")
    texts = _array(archive, "labels", "U", 1, where) if "labels.npy" in names else np.array([])
    labels = {object_id: str(text) for object_id, text in zip(ids, texts, strict=False) if text}
    scores = _array(archive, "scores", "f", 2, where) if "scores.npy" in names else np.ones((len(frames), len(ids)))
    if scores.shape != (len(frames), len(ids)) or not np.isfinite(scores).all():
        raise AnnotationError(f"{where}: 'scores' must be finite, of shape (frames, objects).")
    found = []
    size = None
    if "masks.npy" in names:
        with archive.open("masks.npy") as file:
            shape, dtype = _header(file, "masks", where)
            if dtype != np.dtype(bool) or len(shape) != 4 or shape[:2] != scores.shape:
                raise AnnotationError(f"{where}: 'masks' must be bool (frames, objects, height, width).")
            size = int(shape[2]), int(shape[3])
            if not 0 < size[0] * size[1] <= MAX_MASK_PIXELS:
                raise AnnotationError(f"{where}: masks of 1 to {MAX_MASK_PIXELS} pixels are read.")
            for index, row in zip(frames.tolist(), scores.tolist(), strict=True):
                objects = list(_masks(file, ids, row, size, where))
                found.append(AnnotatedFrame(index, "", [one for one in objects if one.is_visible]))
    else:
        boxes = _array(archive, "boxes", "f", 3, where)
        if boxes.shape != (*scores.shape, 4) or not np.isfinite(boxes).all():
            raise AnnotationError(f"{where}: 'boxes' must be finite, of shape (frames, objects, 4).")
        for index, own, row in zip(frames.tolist(), boxes.tolist(), scores.tolist(), strict=True):
            objects = [Annotation(i, tuple(box), None, s) for i, box, s in zip(ids, own, row, strict=True)]
            found.append(AnnotatedFrame(index, "", [one for one in objects if one.is_visible]))
    return AnnotatedMedia.of_frames(where, size, found, labels)


def _masks(
    file: IO[bytes], ids: list[int], scores: list[float], size: tuple[int, int], where: str
) -> Iterator[Annotation]:
    for object_id, score in zip(ids, scores, strict=True):
        content = file.read(size[0] * size[1])
        if len(content) < size[0] * size[1]:
            raise AnnotationError(f"{where}: 'masks' is cut short.")
        yield Annotation.of_mask(object_id, np.frombuffer(content, np.uint8).reshape(size) != 0, score)


def _array(archive: zipfile.ZipFile, name: str, kinds: str, ndim: int, where: str) -> np.ndarray:
    """A small array, whose size is checked before it is read."""
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _header(file, name, where)
        count = int(np.prod([int(n) for n in shape], dtype=object)) if shape else 0
        if dtype.kind not in kinds or len(shape) != ndim or dtype.itemsize > 4096 or count > MAX_ITEMS:
            raise AnnotationError(f"{where}: {name!r} must have {ndim} axes and values of kind {kinds!r}.")
        content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise AnnotationError(f"{where}: {name!r} is cut short.")
    return np.frombuffer(content, dtype).reshape(shape)


def _header(file: IO[bytes], name: str, where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if is_fortran or dtype.hasobject:
        raise AnnotationError(f"{where}: {name!r} must be in C order, without Python objects.")
    return shape, dtype
