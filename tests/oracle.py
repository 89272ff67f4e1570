"""A tracker that says what it is told, and discs for it to say: what tests of evaluation share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch


HEIGHT, WIDTH = 48, 64


def disk(x, y, radius, size=(HEIGHT, WIDTH)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


class Oracle(torch.nn.Module):
    """Stands in for a model, and tracks as it is told: for each frame, the masks by object."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, masks):
        super().__init__()
        self.masks = masks
        self.prompts = {}

    def forward(self, session, frame_idx):
        for object_id, tracked in session.objects.items():
            self.prompts.setdefault(object_id, dict(tracked.prompts))
        logits = [np.where(self.masks[frame_idx][i], 4.0, -4.0) for i in session.obj_ids]
        pred_masks = torch.tensor(np.array(logits), dtype=torch.float32)[:, None]
        return SimpleNamespace(object_ids=session.obj_ids, pred_masks=pred_masks)

    def segment_prompts(self, session, frame_idx):
        """What it says of a frame does not depend on what was prompted there."""
        return self.forward(session, frame_idx)

    def track_frame(self, session, frame_idx, *_, **__):
        """As `segment_prompts`."""
        return self.forward(session, frame_idx)
