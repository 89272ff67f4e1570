"""Makes prompts of annotations, so that a tracker goes on from what a tool began."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..prompts import Box, ObjectPrompts, Prompts
from ..safe_names import shown
from .annotations import UNNAMED, AnnotatedFrame, AnnotatedMedia, Annotation, AnnotationError


__all__ = ["InitialPrompts", "prompts_of"]

EVERY = 0  # for `most`: all annotated frames
MAX_PROMPTED = 8  # frames on which an object is prompted by default: a frame attends to all of them


@dataclass
class InitialPrompts:
    """Prompts that were made of annotations.

    Attributes:
        prompts: the prompts by frame number and object id, in pixels of the video.
        labels: the names of objects by object id.
        left_out: how many annotations were outside the tracked frames, or more than were asked for.
    """

    prompts: Prompts = field(default_factory=dict)
    labels: dict[int, str] = field(default_factory=dict)
    left_out: int = 0


def prompts_of(
    media: AnnotatedMedia,
    size: tuple[int, int],
    frames: range,
    name_of: Callable[[int], str] | None = None,
    most: int = MAX_PROMPTED,
) -> InitialPrompts:
    """Make prompts of the masks, or else the boxes, of annotations.

    Args:
        media: the annotations.
        size: (height, width) of the video. Annotations of another size of the same shape are scaled.
        frames: the numbers of the frames that are tracked.
        name_of: a function from the number of a frame to its name, for formats whose files are named as frames are.
        most: the largest number of frames on which an object is prompted, spread evenly from its first annotated frame
            to its last; 0 for all of them.

    Raises:
        AnnotationError: if the shape of the video is another, a frame is unknown, or no annotation is on its frames.
    """
    given = media.size or size
    if abs(given[0] * size[1] - given[1] * size[0]) > max(*given, *size):
        raise AnnotationError(
            f"The annotations are for {given[1]}x{given[0]} pixels and the video has {size[1]}x{size[0]}: they are of "
            "another video."
        )
    numbers = {name_of(index): index for index in frames} if name_of else {}
    found: dict[int, dict[int, Annotation]] = {}
    made = InitialPrompts()
    for frame in media.frames():
        index = _number(frame, numbers, media)
        for one in frame.visible:
            if index in frames:
                found.setdefault(one.object_id, {})[index] = one
            else:
                made.left_out += 1
    if not found:
        raise AnnotationError(f"No annotation is on the frames {frames.start} to {frames.stop - 1}, which are tracked.")
    for object_id, on_frames in sorted(found.items()):
        indices = sorted(on_frames)
        if most and len(indices) > most:
            made.left_out += len(indices) - most
            indices = [indices[i] for i in np.linspace(0, len(indices) - 1, most).round().astype(int)]
        for index in indices:
            if (prompt := _prompt(on_frames[index], given, size)) is None:
                made.left_out += 1
            else:
                made.prompts.setdefault(index, {})[object_id] = prompt
    if not made.prompts:
        raise AnnotationError("No annotation lies in the frame.")
    prompted = {object_id for on_frame in made.prompts.values() for object_id in on_frame}
    made.labels = {i: label for i, label in media.labels.items() if i in prompted and label != UNNAMED}
    return made


def _number(frame: AnnotatedFrame, numbers: dict[str, int], media: AnnotatedMedia) -> int:
    """The number of an annotated frame, by its name if the format has names only."""
    if frame.index >= 0:
        return frame.index
    if frame.name in numbers:
        return numbers[frame.name]
    if frame.name.isdecimal() and len(frame.name) < 10:
        return int(frame.name)
    if sum(1 for _ in media.frames()) == 1:
        return min(numbers.values(), default=0)
    raise AnnotationError(
        f"The video has no frame {shown(frame.name)}: the files of annotations must be named as the frames are, or by "
        "number."
    )


def _prompt(one: Annotation, given: tuple[int, int], size: tuple[int, int]) -> ObjectPrompts | None:
    """The prompt of an annotation; `None` if its box does not lie in the frame."""
    if one.mask is not None:
        return ObjectPrompts(mask=one.pixels()).scaled(given, size)
    x, y, width, height = one.box
    scale_x, scale_y = size[1] / given[1], size[0] / given[0]
    x0, x1 = (min(max(n * scale_x, 0.0), float(size[1])) for n in (x, x + width))
    y0, y1 = (min(max(n * scale_y, 0.0), float(size[0])) for n in (y, y + height))
    return ObjectPrompts(box=Box(x0, y0, x1, y1)) if x0 < x1 and y0 < y1 else None
