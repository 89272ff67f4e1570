"""Masks in and out: object indices as palette PNGs in the manner of DAVIS, and single masks as COCO run lengths.

These are the two forms that data sets and evaluation tools of the field read: in a PNG a pixel belongs to one object,
while run-length masks of different objects may overlap. pycocotools is imported where it is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from ._media import VideoError
from .atomic_file import atomic_path
from .image_io import open_image


__all__ = ["davis_palette", "decode_rle", "decompress_counts", "encode_rle", "read_indexed_png", "write_indexed_png"]


def davis_palette() -> np.ndarray:
    """The colours of DAVIS (and PASCAL VOC) annotations: uint8 ``(256, 3)`` RGB, row 0 the black background.

    The bits of an index, lowest first, are dealt in turn to red, green and blue, which they fill from the highest.
    """
    indices = np.arange(256, dtype=np.uint8)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        channel, place = bit % 3, 7 - bit // 3
        palette[:, channel] |= ((indices >> bit) & 1) << place
    return palette


def write_indexed_png(path: str | os.PathLike, labels: np.ndarray) -> None:
    """Write object indices as a palette PNG in the colours of DAVIS, whole or not at all.

    Args:
        path: Missing folders are created.
        labels: Integers or bool ``(height, width)``, 0 is background, at most 255.

    Raises:
        VideoError: another shape or type, or values outside 0 to 255.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "bui" or labels.size == 0:
        raise VideoError(f"Labels must be integers of shape (height, width), got {labels.dtype} {labels.shape}.")
    if labels.min() < 0 or labels.max() > 255:
        raise VideoError(
            f"A PNG holds object indices from 0 to 255, got {labels.min()} to {labels.max()}; renumber the objects."
        )
    image = Image.fromarray(np.ascontiguousarray(labels.astype(np.uint8)))
    image.putpalette(davis_palette().tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def read_indexed_png(path: str | os.PathLike) -> np.ndarray:
    """Read object indices from an annotation image.

    - palette: the indices themselves, whatever their colours;
    - greyscale: the values themselves, but only 0 and 255 is a binary mask (DAVIS-2016) and gives 0 and 1;
    - colour: grey pixels as greyscale, or the colours of the DAVIS palette as their indices.

    Returns:
        uint8 ``(height, width)``.

    Raises:
        FileNotFoundError: there is no file at ``path``.
        VideoError: not an image, more than 8 bits of label, or colours that are not those of DAVIS.
    """
    path = Path(path)
    with open_image(path) as image:
        try:
            if image.mode not in ("P", "1", "L") and not image.mode.startswith("I"):
                image = image.convert("RGB")
            values = np.array(image)
        except (OSError, SyntaxError) as error:
            raise VideoError(f"'{path}' is damaged or cut short and cannot be decoded ({error}).") from error
        if image.mode == "P":
            return values
    if values.ndim == 3:
        if (values == values[..., :1]).all():
            values = values[..., 0]
        else:
            colours = (davis_palette().astype(np.int64) * (65536, 256, 1)).sum(axis=1)
            order = np.argsort(colours)
            packed = (values.astype(np.int64) * (65536, 256, 1)).sum(axis=2)
            place = np.searchsorted(colours[order], packed).clip(0, 255)
            if (colours[order][place] != packed).any():
                raise VideoError(
                    f"'{path}' has colours that are not of the DAVIS palette; palette or greyscale PNG is accepted."
                )
            return order[place].astype(np.uint8)
    values = values.astype(np.int64)
    if values.min() < 0 or values.max() > 255:
        raise VideoError(f"'{path}' has labels from {values.min()} to {values.max()}; object indices go from 0 to 255.")
    if values.max() == 255 and np.isin(values, (0, 255)).all():
        values = values // 255
    return values.astype(np.uint8)


def _import_coco_mask() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("COCO run-length masks need pycocotools: pip install efficienttam-hf[video].") from error
    return mask


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """A mask in COCO's compressed run-length encoding, ready for JSON.

    Args:
        mask: bool, or integers that are 0 outside the object, ``(height, width)``.

    Returns:
        ``{"size": [height, width], "counts": str}``.

    Raises:
        VideoError: another shape or type.
        ImportError: pycocotools is not installed.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise VideoError(
            f"A mask must be bool of shape (height, width), got {mask.dtype} {mask.shape}; threshold logits at 0 first."
        )
    rle = _import_coco_mask().encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """The mask of a COCO run-length encoding: compressed (str or bytes counts) or not (a list of counts).

    Returns:
        bool ``(height, width)``.

    Raises:
        VideoError: not such an encoding, or its runs do not fill its size.
        ImportError: pycocotools is not installed.
    """
    coco = _import_coco_mask()
    try:
        (height, width), counts = rle["size"], rle["counts"]
        if isinstance(counts, (list, tuple)):
            runs = np.array(counts, dtype=np.int64)
            rle = coco.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)
        else:
            runs = decompress_counts(counts)
            rle = {"size": [height, width], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
        # For runs that are too short pycocotools would return whatever was in memory.
        if (runs < 0).any() or runs.sum() != height * width:
            raise ValueError(f"its runs add up to {runs.sum()} pixels, not to {width}x{height}")
        return coco.decode(rle).astype(bool)
    except (KeyError, TypeError, ValueError) as error:
        raise VideoError(
            f'Not a COCO run-length mask ({error}); {{"size": [height, width], "counts": str or list}} is accepted.'
        ) from error


def decompress_counts(counts: str | bytes) -> np.ndarray:
    """Lengths of the runs of 0 and 1 in turn, int64, from COCO's compressed counts.

    Raises:
        ValueError: the counts are damaged.
    """
    characters = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, dtype=np.uint8)
    values = characters.astype(np.int64) - 48
    if not len(values) or (values < 0).any() or (values > 63).any() or values[-1] & 32:
        raise ValueError("its counts are empty, cut short or hold characters of no meaning")
    last = (values & 32) == 0  # bit 5 says that more of this number follows, lowest bits first
    number = np.cumsum(last) - last
    place = np.arange(len(values)) - np.append(0, np.flatnonzero(last)[:-1] + 1)[number]
    if place.max() > 6:
        raise ValueError("its counts hold a number beyond 32 bits")
    runs = np.bincount(number, weights=(values & 31) << (5 * place)).astype(np.int64)
    runs -= np.where(values[last] & 16, 1 << (5 * (place[last] + 1)), 0)  # bit 4 of the highest is the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
