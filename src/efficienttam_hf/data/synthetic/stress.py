"""Synthetic videos, with exact masks, of events in which trackers lose their object.

| kind | what happens |
| --- | --- |
| `occlusion` | a similar, larger object that is not annotated moves over the object, stays, and moves on beside it |
| `reentry` | the object leaves the view for a while and returns, at the same or the other side |
| `crossing` | two similar objects, both annotated, pass each other twice; each is in front once |
| `cut` | the video cuts to another view, then to scenery without the object, then to a third view of the object |

Memory strategies are compared on these videos. The videos are few and small, and their mean score says little about
real videos, in which such events have other frequencies. A video is determined by its kind and seed. If the event fails
in a scene (the object was not hidden, or did not return), another scene is drawn. Drawing needs OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..seeding import generator_of
from .options import SyntheticOptions


__all__ = ["CALM", "KINDS", "StressVideo", "stress_video"]


KINDS = ("occlusion", "reentry", "crossing", "cut")
ATTEMPTS = 40
# Options of scenes in which one or two objects stay in view and keep their shape, so that only the event is difficult.
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
    """A video that was drawn.

    Attributes:
        kind: one of `KINDS`.
        frames: uint8 (frames, height, width, 3), RGB.
        labels: uint8 (frames, height, width): object ids from 1; 0 is background.
    """

    kind: str
    frames: np.ndarray
    labels: np.ndarray


def stress_video(kind: str, seed: int, size: tuple[int, int] = (216, 384), num_frames: int = 48) -> StressVideo:
    """Draw the video of a kind and seed.

    Args:
        kind: one of `KINDS`.
        seed: the seed, from 0.
        size: (height, width) in pixels, at least 64.
        num_frames: the number of frames, at least 24, so that an object can leave and return.

    Raises:
        ValueError: if the kind is unknown, a size is too small, or the event failed in every scene.
        ImportError: if OpenCV is not installed.
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
    """Whether the event took place: objects are visible at both ends, and were hidden in between as intended.

    Args:
        kind: one of `KINDS`.
        shown: (frames, 2), the numbers of visible pixels of objects 1 and 2.
        whole: (frames, 2), the numbers of pixels that would be visible with nothing in front.
        pixels: the number of pixels of a frame.
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
