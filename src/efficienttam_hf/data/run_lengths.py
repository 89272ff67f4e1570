"""Validation of COCO run lengths: sizes, sums and areas, without decoding a pixel.

A mask is written as the lengths of its runs of 0 and 1 in turn, down the columns. The compressed form packs each length
(from the fourth on, its difference from the second length before it) into characters of 5 bits. Data from files is
checked here before pycocotools reads it: pycocotools returns uninitialised memory if the runs are too short, and it
ends the process if vertices are far outside the frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..mask_io import checked_runs, decompress_counts, encode_rle, import_coco_mask, mask_of_runs, mask_size
from ..safe_names import reason_of
from .schema import DatasetError


__all__ = ["RunLengths", "area_of", "run_lengths_of"]


MAX_OUTLINE = 4_000_000  # pixels along the outlines of one mask: about 400 MB while it is drawn

FAR = 2.0**30  # pixels; farther vertices are moved to this distance, at which float64 still has fractions of a pixel

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
        segmentation = _from_polygons(segmentation, size, name)
    try:
        height, width = mask_size(segmentation["size"])
        if (height, width) != tuple(size):
            raise DatasetError(f"{name} is of {width}x{height} pixels, but its frame of {size[1]}x{size[0]}.")
        counts = segmentation["counts"]
        runs = checked_runs(counts, (height, width))
    except DatasetError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        raise DatasetError(
            f"{name} is not a COCO run-length mask ({reason_of(error)}); "
            f'{{"size": [height, width], "counts": ...}} is expected.'
        ) from error
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    elif not isinstance(counts, str):
        counts = encode_rle(mask_of_runs(runs, height, width))["counts"]
    return {"size": [height, width], "counts": counts}, int(runs[1::2].sum())


def area_of(rle: RunLengths) -> int:
    """Return the area in pixels of a mask in compressed run lengths."""
    return int(decompress_counts(rle["counts"])[1::2].sum())


def _from_polygons(polygons: list, size: tuple[int, int], name: str) -> RunLengths:
    """Convert polygons to run lengths, clipped to the surroundings of the frame before pycocotools draws them.

    pycocotools allocates memory for every pixel along an edge and computes in 32 bits, so a distant vertex exhausts the
    RAM or ends the process.
    """
    outlines = []
    for polygon in polygons:
        try:
            outline = np.array(polygon, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DatasetError(
                f"{name} is not a list of polygons [[x0, y0, x1, y1, ...], ...] ({reason_of(error)})."
            ) from error
        if outline.ndim != 1 or len(outline) < 6 or len(outline) % 2 or not np.isfinite(outline).all():
            raise DatasetError(
                f"{name} is not a list of polygons [[x0, y0, x1, y1, ...], ...]: each has at least three points of two "
                "finite numbers."
            )
        outline = _clipped(outline.reshape(-1, 2), size)
        if len(outline) >= 3:
            outlines.append(outline)
    steps = sum(np.abs(np.roll(o, -1, axis=0) - o).max(axis=1).sum() for o in outlines)
    if steps > (limit := min(4 * size[0] * size[1] + 10_000, MAX_OUTLINE)):
        raise DatasetError(
            f"{name} has outlines of {steps:.0f} pixels, more than a mask of {size[1]}x{size[0]} can have ({limit})."
        )
    coco = import_coco_mask()
    if not outlines:
        return encode_rle(np.zeros(size, dtype=bool))
    return coco.merge(coco.frPyObjects([outline.ravel().tolist() for outline in outlines], *size))


def _clipped(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Clip a polygon, float64 (points, 2) of (x, y), to the frame with a border of the frame's size.

    A polygon inside is unchanged. The method is Sutherland and Hodgman, "Reentrant polygon clipping" (1974); the edges
    that it adds lie outside the frame.
    """
    outline = outline.clip(-FAR, FAR)
    for axis, length in ((0, size[1]), (1, size[0])):
        for bound, sign in ((-length - 1.0, 1.0), (2.0 * length + 1.0, -1.0)):
            inside = sign * (outline[:, axis] - bound) >= 0
            if inside.all():
                continue
            if not inside.any():
                return outline[:0]
            before, was_inside = np.roll(outline, 1, axis=0), np.roll(inside, 1)
            crosses = inside != was_inside
            with np.errstate(all="ignore"):  # edges that do not cross the bound are dropped below
                share = (bound - before[:, axis]) / (outline[:, axis] - before[:, axis])
                cut = before + (outline - before) * share[:, None]
            cut[:, axis] = bound
            # Each point yields the crossing of the edge that leads to it, if any, and the point itself if it is inside.
            both = np.stack([cut, outline], axis=1).reshape(-1, 2)
            outline = both[np.stack([crosses, inside], axis=1).ravel()]
    return outline
