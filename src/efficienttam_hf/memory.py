"""Memories as tensors: the memory of one object on one frame, and the batched memory bank that the network reads.

`FrameMemory` is an entry of an `ObjectMemory` (`object_memory.py`), which selects the entries that a frame attends to.
`MemoryBank` holds the selected entries of several objects as tensors; the tracking step reads nothing else of memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .object_memory import MemorySelection


@dataclass
class FrameMemory:
    """The result of one object on one frame, with its spatial memory and object pointer.

    Attributes:
        pred_masks: (1, 1, h, w) mask logits at a quarter of the model's input.
        object_score_logits: (1, 1) object score; above 0 if the object is judged present.
        iou_scores: (1, 1) predicted IoU of the mask.
        object_pointer: (1, C) object pointer.
        spatial: (1, N, c) memory tokens in the storage dtype; `None` if the memory encoder was not run.
    """

    pred_masks: Tensor
    object_score_logits: Tensor
    iou_scores: Tensor
    object_pointer: Tensor
    spatial: Tensor | None = None

    def offloaded(self) -> FrameMemory:
        """A compact copy on the CPU: masks are in float16, the rest is unchanged. `keep_history` gives its size."""
        if self.pred_masks.dtype == torch.float16:
            return self  # it is a compact copy already
        return replace(
            self,
            pred_masks=self.pred_masks.to("cpu", torch.float16),
            object_score_logits=self.object_score_logits.cpu(),
            iou_scores=self.iou_scores.cpu(),
            object_pointer=self.object_pointer.cpu(),
            spatial=None if self.spatial is None else self.spatial.cpu(),
        )


@dataclass
class MemoryBank:
    """The input of memory attention, for a batch of objects with equally many memories. Gradients flow through it.

    Attributes:
        spatial: (B, M, N, c) memory tokens of M frames; the N tokens of a frame are its feature map row by row.
        temporal_index: (B, M) int64, the row of the temporal encoding: `k - 1` for the k-th last frame, and
            `num_maskmem - 1` for a conditioning frame at any distance.
        object_pointers: (B, K, C) object pointers; K may be 0.
    """

    spatial: Tensor
    temporal_index: Tensor
    object_pointers: Tensor

    @staticmethod
    def from_selection(selection: MemorySelection, device: torch.device, dtype: torch.dtype) -> MemoryBank:
        """The memory bank of one object: a batch of one."""
        spatial = torch.stack([entry.spatial.to(device, dtype) for entry, _ in selection.spatial], dim=1)
        if selection.weights is not None:
            spatial = spatial * torch.tensor(selection.weights, device=device, dtype=dtype).view(1, -1, 1, 1)
        index = torch.tensor([[index for _, index in selection.spatial]], device=device)
        if selection.pointers:
            pointers = torch.stack([entry.object_pointer.to(device, dtype) for entry in selection.pointers], dim=1)
        else:
            pointers = spatial.new_zeros(1, 0, selection.spatial[0][0].object_pointer.shape[-1])
        return MemoryBank(spatial, index, pointers)

    @staticmethod
    def concatenate(banks: list[MemoryBank]) -> MemoryBank:
        """Concatenate the banks of objects, which have the same shape, to one batch."""
        return MemoryBank(
            *(
                torch.cat([getattr(bank, name) for bank in banks])
                for name in ("spatial", "temporal_index", "object_pointers")
            )
        )
