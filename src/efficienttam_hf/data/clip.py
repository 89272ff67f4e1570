"""`Clip`: one training sample, as every data source returns it.

A source of clips is an object with `__getitem__(index) -> Clip`, in which the clip depends only on the settings of the
source and the index: the same index always gives the same clip, in any process and in any order. So shuffling,
resuming and dividing the work among processes need only indices (see `training/loop.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


__all__ = ["Clip", "ClipSource"]


@dataclass
class Clip:
    """T annotated frames, in the order of tracking, and N objects.

    Attributes:
        frames: uint8 (T, 3, height, width), RGB.
        masks: bool (T, N, height, width). An object that is absent from a frame has an empty mask there. Every object
            is visible in the first frame.
        name: the name of the sample for error messages (dataset, video, frames).
        seed: the seed of values that are drawn later for this clip (clicks).
        void: bool (T, height, width): pixels without annotation, which no loss counts; `None` for none.
        object_ids: the dataset's ids of the N objects.
        frame_indices: the frame numbers of the T frames in the video.
        video: the id of the video in its dataset; empty for a clip that shares its objects with no other, such as a
            synthetic one.
    """

    frames: Tensor
    masks: Tensor
    name: str
    seed: int = 0
    void: Tensor | None = None
    object_ids: list[int] = field(default_factory=list)
    frame_indices: list[int] = field(default_factory=list)
    video: str = ""


class ClipSource(Protocol):
    """A source of clips, in which each clip is a function of its index."""

    def __getitem__(self, index: int) -> Clip: ...
