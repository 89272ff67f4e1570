"""COCO run lengths, checked: sizes, sums and areas without decoding a pixel.

A mask is written as the lengths of its runs of 0 and 1 in turn, down the columns. The compressed form packs each length
(from the fourth on, its difference from the one two before) into characters of 5 bits. pycocotools refuses runs that
are too long, but for runs that are too short it gives whatever was in memory; so what comes from files is checked here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..mask_io import _import_coco_mask, decompress_counts, encode_rle
from .schema import DatasetError


RunLengths = dict[str, Any]  # {"size": [height, width], "counts": str}


def run_lengths_of(segmentation: Any, size: tuple[int, int], name: str) -> tuple[RunLengths, int]:
    """Any of COCO's forms of a mask as checked, compressed run lengths, with their area.

    Args:
        segmentation: run lengths, compressed or not, or polygons ``[[x0, y0, x1, y1, ...], ...]``.
        size: (height, width) of the frame.
        name: of the mask, for errors.

    Returns:
        ``({"size": [height, width], "counts": str}, pixels)``.

    Raises:
        DatasetError: not such a mask, for a frame of another size, or its runs do not add up to its size.
    """
    if isinstance(segmentation, list):
        segmentation = _from_polygons(segmentation, size, name)
    try:
        height, width = (int(n) for n in segmentation["size"])
        counts = segmentation["counts"]
        runs = np.array(counts, dtype=np.int64) if isinstance(counts, (list, tuple)) else decompress_counts(counts)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DatasetError(
            f'{name} is not a COCO run-length mask ({error}); {{"size": [height, width], "counts": ...}} is expected.'
        ) from error
    if (height, width) != tuple(size):
        raise DatasetError(f"{name} is of {width}x{height} pixels, but its frame of {size[1]}x{size[0]}.")
    if (runs < 0).any() or runs.sum() != height * width:
        raise DatasetError(
            f"{name} is damaged: its runs add up to {runs.sum()} pixels, but {width}x{height} are {height * width}."
        )
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    elif not isinstance(counts, str):
        mask = np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T
        counts = encode_rle(mask)["counts"]
    return {"size": [height, width], "counts": counts}, int(runs[1::2].sum())


def area_of(rle: RunLengths) -> int:
    """Pixels of a mask in compressed run lengths."""
    return int(decompress_counts(rle["counts"])[1::2].sum())


def _from_polygons(polygons: list, size: tuple[int, int], name: str) -> RunLengths:
    coco = _import_coco_mask()
    try:
        return coco.merge(coco.frPyObjects([list(map(float, p)) for p in polygons], *size))
    except Exception as error:  # noqa: BLE001 -- pycocotools raises bare Exception for lists it does not know
        raise DatasetError(f"{name} is not a list of polygons [[x0, y0, x1, y1, ...], ...] ({error}).") from error


__all__ = ["RunLengths", "area_of", "run_lengths_of"]
