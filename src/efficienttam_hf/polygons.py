"""Outlines of masks: polygons drawn as masks, safely for polygons of unknown origin, and masks cut into polygons.

Two conventions exist. In COCO, coordinates are those of the corners of pixels, and a polygon covers the pixels whose
centres are inside it (:func:`rle_of_polygons`). Annotation tools such as labelme draw a polygon through the centres of
pixels, and the pixels under the outline belong to it too (:func:`polygons_of_mask`, :func:`mask_of_polygons`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .mask_io import encode_rle, import_coco_mask
from .safe_names import reason_of


__all__ = ["mask_of_polygons", "polygons_of_mask", "rle_of_polygons"]

MAX_OUTLINE = 4_000_000  # pixels along the outlines of one mask: about 400 MB while it is drawn
FAR = 2.0**30  # pixels; farther vertices are moved to this distance, at which float64 still has fractions of a pixel


def rle_of_polygons(polygons: Sequence[Any], size: tuple[int, int], name: str) -> dict[str, Any]:
    """Convert polygons in COCO's convention to run lengths, clipped before pycocotools draws them.

    pycocotools allocates memory for every pixel along an edge and computes in 32 bits, so a distant vertex exhausts the
    RAM or ends the process.

    Args:
        polygons: ``[[x0, y0, x1, y1, ...], ...]``.
        size: (height, width) of the mask.
        name: the name of the mask, for errors.

    Returns:
        COCO run lengths, compressed, ready for JSON.

    Raises:
        ValueError: if these are no polygons, or their outlines are longer than a mask of this size can have.
        ImportError: pycocotools is not installed.
    """
    outlines = _outlines(polygons, size, name)
    coco = import_coco_mask()
    if not outlines:
        return encode_rle(np.zeros(size, dtype=bool))
    rle = coco.merge(coco.frPyObjects([outline.ravel().tolist() for outline in outlines], *size))
    return {"size": list(size), "counts": rle["counts"].decode("ascii")}


def mask_of_polygons(polygons: Sequence[Any], size: tuple[int, int], name: str) -> np.ndarray:
    """Draw polygons as annotation tools do: through the centres of pixels, with the pixels under the outline.

    Args and raises as :func:`rle_of_polygons`.

    Returns:
        bool (height, width).
    """
    canvas = Image.new("1", (size[1], size[0]))
    for outline in _outlines(polygons, size, name):
        ImageDraw.Draw(canvas).polygon([(x, y) for x, y in outline.tolist()], fill=1, outline=1)
    return np.array(canvas)


def polygons_of_mask(mask: np.ndarray) -> list[list[list[float]]]:
    """Cut a mask into polygons without holes; :func:`mask_of_polygons` draws exactly this mask from them.

    A part with holes is cut in two through its first hole, until none is left.

    Args:
        mask: bool (height, width).

    Returns:
        Polygons ``[[x, y], ...]`` of at least three points, in pixels; none if the mask is empty.

    Raises:
        ImportError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError("Polygons need OpenCV: pip install efficienttam-hf[video].") from error
    found: list[list[list[float]]] = []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return found
    top, left = int(rows[0]), int(columns[0])
    waiting = [(left, top, np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1], dtype=np.uint8))]
    while waiting:
        left, top, part = waiting.pop()
        contours, hierarchy = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        if hierarchy is None:
            continue
        holes = [contours[i] for i in range(len(contours)) if hierarchy[0][i][3] >= 0]
        if holes:
            # The contour of a hole runs on the object's pixels around it, so the next column goes through the hole.
            cut = int(holes[0][:, 0, 0].min()) + 1
            waiting.append((left + cut, top, np.ascontiguousarray(part[:, cut:])))
            waiting.append((left, top, np.ascontiguousarray(part[:, :cut])))
            continue
        for contour in contours:
            points = (contour[:, 0, :] + (left, top)).astype(float).tolist()
            found.append(points + points[-1:] * (3 - len(points)))  # a pixel and a line are polygons too
    return found


def _outlines(polygons: Sequence[Any], size: tuple[int, int], name: str) -> list[np.ndarray]:
    """Check polygons and clip each to the surroundings of the frame: float64 (points, 2)."""
    form = f"{name} is not a list of polygons [[x0, y0, x1, y1, ...], ...]"
    outlines = []
    for polygon in polygons:
        try:
            outline = np.array(polygon, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{form} ({reason_of(error)}).") from error
        if outline.ndim != 1 or len(outline) < 6 or len(outline) % 2 or not np.isfinite(outline).all():
            raise ValueError(f"{form}: each has at least three points of two finite numbers.")
        outline = _clipped(outline.reshape(-1, 2), size)
        if len(outline) >= 3:
            outlines.append(outline)
    steps = sum(np.abs(np.roll(o, -1, axis=0) - o).max(axis=1).sum() for o in outlines)
    if steps > (limit := min(4 * size[0] * size[1] + 10_000, MAX_OUTLINE)):
        raise ValueError(
            f"{name} has outlines of {steps:.0f} pixels, more than a mask of {size[1]}x{size[0]} can have ({limit})."
        )
    return outlines


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
