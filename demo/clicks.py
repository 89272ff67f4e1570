"""Converts clicks to prompts, in the same way for videos, images and the camera."""

from __future__ import annotations

from dataclasses import replace

from uploads import UserError

from efficienttam_hf.prompts import Box, ObjectPrompts


POSITIVE, NEGATIVE, BOX = "+ object", "− not object", "box"
KINDS = (POSITIVE, NEGATIVE, BOX)

Point = tuple[float, float]


def with_click(
    prompts: ObjectPrompts, kind: str, point: Point, corner: Point | None, most: int
) -> tuple[ObjectPrompts, Point | None]:
    """Add one click to the prompts of an object.

    Args:
        prompts: the prompts before the click; they are not changed.
        kind: one of `KINDS`.
        point: (x, y) in pixels.
        corner: the first corner of a box, if the previous click set one; otherwise `None`.
        most: the largest number of points.

    Returns:
        The new prompts, and the first corner of a box if the click set one; otherwise `None`.

    Raises:
        UserError: if the box is too small, there are too many points, or a negative point comes first.
    """
    if kind == BOX:
        if corner is None:
            return prompts, point
        (x0, x1), (y0, y1) = sorted((corner[0], point[0])), sorted((corner[1], point[1]))
        if x1 - x0 < 2 or y1 - y0 < 2:
            raise UserError(
                "The two corners of the box are too close: click the opposite corner a little further away."
            )
        return replace(prompts, box=Box(x0, y0, x1, y1)), None
    if kind == NEGATIVE and not (prompts.box or prompts.mask is not None or 1 in prompts.labels):
        raise UserError("Click on the object first; then click on what does not belong to it.")
    if len(prompts.points) >= most:
        raise UserError(f"There can be at most {most} clicks on one object. Undo some to make others.")
    return replace(prompts, points=[*prompts.points, point], labels=[*prompts.labels, int(kind == POSITIVE)]), None


def inside(point: Point, size: tuple[int, int]) -> Point:
    """Return the point inside an image that is closest to `point`, since a drag may end outside.

    Args:
        point: (x, y) in pixels.
        size: (height, width) of the image.
    """
    return min(max(float(point[0]), 0.0), float(size[1])), min(max(float(point[1]), 0.0), float(size[0]))


def next_object_id(used: list[int], most: int) -> int:
    """Return the id of a new object: the smallest id from 1 that is not used.

    Args:
        used: the ids in use.
        most: the largest number of objects.

    Raises:
        UserError: if there are already `most` objects.
    """
    if len(used) >= most:
        raise UserError(f"There can be at most {most} objects. Remove one to add another.")
    return next(i for i in range(1, most + 1) if i not in used)
