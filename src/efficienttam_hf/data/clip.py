"""`Clip`: one training sample, as every data source returns it.

A source of clips is anything with `__getitem__(index) -> Clip` in which the clip is a function of the source's
settings and the index alone: the same index always gives the same clip, in any process and in any order. Shuffling,
resuming and sharing the work between processes then are arithmetic on indices (see `training/loop.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


__all__ = ["Clip", "ClipSource"]


@dataclass
class Clip:
    """T annotated frames in the order in which they are to be tracked, and N objects.

    Attributes:
        frames: uint8 (T, 3, height, width), RGB.
        masks: bool (T, N, height, width). An object that is absent from a frame has an empty mask there. Every object
            is visible in the first frame.
        name: which sample this is, in the words an error message would use (dataset, video, frames).
        seed: of whatever is drawn at random about this clip later (clicks).
        void: bool (T, height, width): pixels that nobody judged and that no loss may count; `None` for none.
        object_ids: as the dataset numbers them, N.
        frame_indices: which frames of the video these are, T.
    """

    frames: Tensor
    masks: Tensor
    name: str
    seed: int = 0
    void: Tensor | None = None
    object_ids: list[int] = field(default_factory=list)
    frame_indices: list[int] = field(default_factory=list)


class ClipSource(Protocol):
    """Where clips come from: by index, each a function of the index alone."""

    def __getitem__(self, index: int) -> Clip: ...
