"""Objects that are found instead of prompted, for the command line and the demo: one call each, and their JSON.

In `masks.json`, an object that was found has three more fields than one that was prompted:

    {"id": 1, "prompts": [{"frame": 0, "box": [...]}],
     "label": "a dog",                                 null if the detector gives none, as --everything
     "detection_score": 0.82,                          the highest score of its detections
     "detections": [{"frame": 0, "score": 0.82, "box": [x0, y0, x1, y1]}]}

`detections` has the detection from which the object began, and those by which it was found again after it was lost.
Boxes are in pixels of the original frames, as prompts are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..discovery import Detector, FinderOptions, FoundObject, ObjectFinder
from ..prompts import Box, ObjectPrompts
from .plan import TrackedFrame, add_prompts, open_session, read_output
from .results import ObjectName


if TYPE_CHECKING:
    from ..modeling_efficienttam_video import EfficientTamVideoModel
    from ..processing_efficienttam import EfficientTamVideoProcessor


def find_on_frame(
    model: EfficientTamVideoModel,
    processor: EfficientTamVideoProcessor,
    frame: np.ndarray,
    source: Detector | Sequence[str] | str,
    options: FinderOptions | None = None,
    known: Mapping[int, np.ndarray] | None = None,
) -> tuple[TrackedFrame, dict[int, ObjectPrompts], list[FoundObject]]:
    """Find the objects of one frame, as tracking does at its start.

    Args:
        frame: uint8 (height, width, 3) RGB.
        source: a detector, a list of texts, or `"everything"`; see `ObjectFinder`.
        options: how objects are found.
        known: the masks, bool (height, width), of objects by id that are not to be found again; no mask is empty.

    Returns:
        The masks and scores of the objects, the prompts by object id that give them when the video is tracked, and the
        objects with their labels, the best first.

    Raises:
        NothingFoundError: if no object is found.
        DetectionError: if the source is none, or its detector cannot be loaded or fails.
    """
    session = open_session(model, processor, [frame])
    for object_id, mask in (known or {}).items():
        add_prompts(model, processor, session, 0, object_id, ObjectPrompts(mask=mask))
    found = ObjectFinder(model, processor, source, options).seed(session, 0)
    done = read_output(processor, session, model.get_frame_output(session, 0), [one.object_id for one in found])
    prompts = {}
    for one, logits in zip(found, done.logits, strict=True):
        first = one.sightings[0]
        prompts[one.object_id] = ObjectPrompts(mask=logits > 0) if first.has_mask else ObjectPrompts(box=first.box)
    return done, prompts, found


def name_of(found: FoundObject) -> ObjectName:
    """What an object is called in pictures."""
    return ObjectName(found.object_id, found.label, found.score)


def found_as_json(
    found: Iterable[FoundObject], first: int, size: tuple[int, int], prompt_size: tuple[int, int]
) -> list[dict[str, Any]]:
    """The objects as `masks.json` has them; see above.

    Args:
        found: the objects.
        first: the number of the session's first frame in the video.
        size: (height, width) of the session's frames.
        prompt_size: (height, width) of the original frames.
    """
    entries = []
    for one in found:
        boxes = {
            sighting.frame_idx + first: ObjectPrompts(box=sighting.box).scaled(size, prompt_size).box
            for sighting in one.sightings
        }
        scores = {sighting.frame_idx + first: sighting.score for sighting in one.sightings}
        begin, has_mask = next(iter(boxes)), one.sightings[0].has_mask
        prompt = ObjectPrompts(box=None if has_mask else boxes[begin]).as_json() | ({"mask": True} if has_mask else {})
        entries.append(
            {
                "id": one.object_id,
                "prompts": [{"frame": begin, **prompt}],
                "label": one.label,
                "detection_score": round(one.score, 4),
                "detections": [
                    {"frame": frame, "score": round(scores[frame], 4), "box": _rounded(box)}
                    for frame, box in boxes.items()
                ],
            }
        )
    return entries


def _rounded(box: Box | None) -> list[float]:
    return [] if box is None else [round(side, 2) for side in box]
