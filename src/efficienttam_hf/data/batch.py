"""Combines clips into a batch: the objects of all clips are concatenated along the batch dimension.

A training step runs a frame of every clip through the image encoder, then all objects at once through the tracking
step. Clips have different numbers of objects, so objects are concatenated, not padded, and each object has the index of
its clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .clip import Clip
from .seeding import derive_seed


__all__ = ["ClipBatch", "collate_clips"]


@dataclass
class ClipBatch:
    """B clips of T frames with O objects in all.

    Attributes:
        frames: uint8 (T, B, 3, height, width), RGB.
        masks: bool (T, O, height, width).
        clip_index: int64 (O,): the index of an object's clip among the B clips.
        void: bool (T, B, height, width): pixels that no loss counts; `None` if no clip has any.
        seeds: int64 (O,): the seed of the random values of an object (clicks). It depends only on the clip's seed and
            the index of the object in the clip, so the values do not depend on the rest of the batch.
        names: B names of the samples, for error messages.
    """

    frames: Tensor
    masks: Tensor
    clip_index: Tensor
    void: Tensor | None
    seeds: Tensor
    names: list[str]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """Copy the batch to another device, without waiting for the copy if `non_blocking` and the batch is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ClipBatch:
        """Copy the batch to page-locked RAM. `DataLoader(pin_memory=True)` calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> ClipBatch:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        changed: dict[str, Any] = {name: function(value) for name, value in tensors.items()}
        return replace(self, **changed)


def collate_clips(clips: Sequence[Clip]) -> ClipBatch:
    """Combine clips of the same length and size into a batch.

    Raises:
        ValueError: if there are no clips, or their frames differ in number or size.
    """
    if not clips:
        raise ValueError("A batch needs at least one clip, got none.")
    first = clips[0]
    for clip in clips:
        if clip.frames.shape != first.frames.shape:
            raise ValueError(
                "Clips of a batch must have the same number and size of frames, but those of "
                f"'{first.name}' have shape {tuple(first.frames.shape)} and those of "
                f"'{clip.name}' {tuple(clip.frames.shape)}; give all sources the same num_frames and image_size."
            )
    counts = [clip.masks.shape[1] for clip in clips]
    void = None
    if any(clip.void is not None for clip in clips):
        unjudged = [torch.zeros_like(c.frames[:, 0], dtype=torch.bool) if c.void is None else c.void for c in clips]
        void = torch.stack(unjudged, dim=1)
    return ClipBatch(
        frames=torch.stack([clip.frames for clip in clips], dim=1),
        masks=torch.cat([clip.masks for clip in clips], dim=1),
        clip_index=torch.repeat_interleave(torch.arange(len(clips)), torch.tensor(counts)),
        void=void,
        seeds=torch.tensor(
            [derive_seed(clip.seed, k) for clip, count in zip(clips, counts, strict=True) for k in range(count)],
            dtype=torch.int64,
        ),
        names=[clip.name for clip in clips],
    )
