"""The synthetic video that is tracked if no video is given, and others like it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import numpy as np

# The clip for calls without a video shows an animal that walks, and another one that passes in front of it.
DEMO_SIZE, DEMO_FRAMES, DEMO_SEED, DEMO_CLIP = (360, 640), 33, 3, 2
DEMO_SCENE = {
    "aspect_ratios": (),
    "figure": 0.9,
    "still": 0.0,
    "leave": 0.0,
    "occluder": 0.3,
    "max_untracked": 2,
    "noise": 0.0,
    "compression": 0.0,
    "low_resolution": 0.0,
    "camouflage": 0.0,
    "fast": 0.0,
}


def make_example_clip(path: Path, number: int = DEMO_CLIP, max_objects: int = 1) -> tuple[Path, tuple[float, float]]:
    """Write the synthetic clip of a number as a video file; return the file and a click on an object in it."""
    from ..video_writer import VideoWriter

    frames, click = example_frames(number, max_objects)
    height, width = DEMO_SIZE
    with VideoWriter(path, 24, width, height, crf=12) as writer:
        for frame in frames:
            writer.write(frame)
    return path, click


def example_frames(number: int = DEMO_CLIP, max_objects: int = 1) -> tuple[np.ndarray, tuple[float, float]]:
    """Draw the synthetic clip of a number: uint8 (frames, height, width, 3) RGB, and a click on an object in it."""
    from ..data.synthetic import SyntheticClips
    from ..evaluation.prompted import center_click

    clips = SyntheticClips(DEMO_SIZE, DEMO_FRAMES, max_objects=max_objects, seed=DEMO_SEED, options=DEMO_SCENE)
    clip = clips[number]
    return clip.frames.permute(0, 2, 3, 1).numpy(), center_click(clip.masks[0, 0].numpy())
