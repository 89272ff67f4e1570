"""Synthetic videos of what makes a tracker lose its object, one kind of event each, with exact masks.

| kind | what happens |
| --- | --- |
| `occlusion` | a like object, larger and not annotated, moves over the object, stays over it and moves on beside it |
| `reentry` | the object leaves the view, is away for a while and comes back, there or on the other side |
| `crossing` | two like objects, both annotated, pass each other twice; each is in front once |
| `cut` | the camera is elsewhere at once; then other scenery without the object; then the object from a third view |

They are what memory strategies are compared on. They are small, and their mean means little: how often such events
happen in videos is another matter. A video is a function of its kind and seed. Scenes in which the event did not come
off (the object was not hidden, or did not come back) are drawn anew. Drawing needs OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..seeding import generator_of
from .options import SyntheticOptions


__all__ = ["CALM", "KINDS", "StressVideo", "stress_video"]


KINDS = ("occlusion", "reentry", "crossing", "cut")
ATTEMPTS = 40
# Of scenes: one or two things that keep in view and in shape, so that what happens is the event.
CALM = SyntheticOptions(
    object_side=(0.22, 0.4),
    object_side_median=0.3,
    object_side_spread=0.2,
    aspect_ratios=(),
    leave=0.0,
    fast=0.0,
    dart=0.0,
    speed=(0.002, 0.01),
    turn=0.0,
    tilt=25.0,
    scale_change=1.2,
    distractor=0.0,
    occluder=0.0,
    orbit=0.0,
    crossing=0.0,
    camera_follow=0.0,
    camera_speed=(0.002, 0.008),
    camera_zoom=1.1,
    lamp=0.0,
    noise_level=(1.0, 4.0),
    compression_quality=(50, 90),
)


@dataclass
class StressVideo:
    """A drawn video.

    Attributes:
        kind: one of `KINDS`.
        frames: uint8 (frames, height, width, 3), RGB.
        labels: uint8 (frames, height, width): 1 and up for objects, 0 elsewhere.
    """

    kind: str
    frames: np.ndarray
    labels: np.ndarray


def stress_video(kind: str, seed: int, size: tuple[int, int] = (216, 384), num_frames: int = 48) -> StressVideo:
    """Draw the video of a kind and seed.

    Args:
        kind: one of `KINDS`.
        seed: 0 and up.
        size: (height, width) in pixels, at least 64.
        num_frames: at least 24, so that something can go and come back.

    Raises:
        ValueError: for another kind, sizes that are too small, or if no scene came off.
        ImportError: without OpenCV.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no kind of event {kind!r}; there are {', '.join(KINDS)}.")
    if min(size) < 64 or num_frames < 24:
        raise ValueError(f"A stress video has at least 24 frames of 64x64 pixels, got {num_frames} of {size}.")
    try:
        from .stress_scenes import SCENES
    except ImportError as error:
        raise ImportError("Synthetic videos are drawn with OpenCV: pip install efficienttam-hf[video].") from error

    for attempt in range(ATTEMPTS):
        rng = generator_of(seed, KINDS.index(kind), attempt)
        draw = SCENES[kind](rng, size, num_frames, CALM)
        drawn = [draw(time) for time in range(num_frames)]
        shown = np.array([[np.count_nonzero(frame.seen == label) for label in (1, 2)] for frame in drawn])
        whole = np.array([frame.whole[1:3] for frame in drawn])
        if came_off(kind, shown, whole, size[0] * size[1]):
            return StressVideo(kind, np.stack([f.image for f in drawn]), np.stack([f.seen for f in drawn]))
    raise ValueError(f"No scene of kind {kind!r} and seed {seed} came off in {ATTEMPTS} attempts.")


def came_off(kind: str, shown: np.ndarray, whole: np.ndarray, pixels: int) -> bool:
    """Whether the event took place: the objects show at both ends, and what should be hidden in between was.

    Args:
        shown: (frames, 2) pixels that are seen of objects 1 and 2.
        whole: (frames, 2) pixels that would be seen with nothing in front.
        pixels: of a frame.
    """
    objects = [0, 1] if kind == "crossing" else [0]
    for label in objects:
        at_ends = shown[[0, -1], label]
        if at_ends.min() < 0.008 * pixels or (at_ends < 0.7 * whole[[0, -1], label]).any():
            return False
    share = shown / np.maximum(whole, 1)
    if kind == "crossing":
        return bool(share[:, 0].min() < 0.5 and share[:, 1].min() < 0.5)
    if kind == "occlusion":
        return int((share[:, 0] < 0.1).sum()) >= len(shown) // 10
    return int((shown[:, 0] == 0).sum()) >= len(shown) // 8
