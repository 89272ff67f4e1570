"""Validation of COCO run lengths: sizes, sums and areas, without decoding a pixel.

A mask is written as the lengths of its runs of 0 and 1 in turn, down the columns. The compressed form packs each length
(from the fourth on, its difference from the second length before it) into characters of 5 bits. Data from files is
checked here before pycocotools reads it, because pycocotools returns uninitialised memory if the runs are too short.
"""

from __future__ import annotations

from typing import Any

from ..mask_io import checked_rle, decompress_counts
from ..polygons import rle_of_polygons
from .schema import DatasetError


__all__ = ["RunLengths", "area_of", "run_lengths_of"]

RunLengths = dict[str, Any]  # {"size": [height, width], "counts": str}


def run_lengths_of(segmentation: Any, size: tuple[int, int], name: str) -> tuple[RunLengths, int]:
    """Convert any of COCO's forms of a mask to checked, compressed run lengths, and compute the area.

    Args:
        segmentation: run lengths, compressed or not, or polygons ``[[x0, y0, x1, y1, ...], ...]``.
        size: (height, width) of the frame.
        name: the name of the mask, for errors.

    Returns:
        ``({"size": [height, width], "counts": str}, pixels)``.

    Raises:
        DatasetError: if it is not such a mask, has another size, or its runs do not add up to its size.
    """
    if isinstance(segmentation, list):
        try:
            segmentation = rle_of_polygons(segmentation, size, name)
        except ValueError as error:
            raise DatasetError(str(error)) from error
    return checked_rle(segmentation, size, name, DatasetError)


def area_of(rle: RunLengths) -> int:
    """Return the area in pixels of a mask in compressed run lengths."""
    return int(decompress_counts(rle["counts"])[1::2].sum())
