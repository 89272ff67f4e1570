"""A picture of a tracked video: some of its frames, with tracked masks above annotated masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic_file import atomic_path
from ..visualization import contact_sheet, overlay_masks
from .semi_supervised import TrackedFrame


__all__ = ["VideoPicture"]

FRAMES_SHOWN = 6
CELL_WIDTH = 320  # pixels


class VideoPicture:
    """Collects small versions of the frames that the picture shows, during tracking.

    Args:
        frames: the numbers of the frames to choose from, ascending; a few evenly spaced ones are shown.
    """

    def __init__(self, frames: Sequence[int]) -> None:
        places = np.linspace(0, len(frames) - 1, min(FRAMES_SHOWN, len(frames))).round().astype(int)
        self._chosen = {frames[place] for place in places}
        self._tracked: dict[str, np.ndarray] = {}
        self._true: dict[str, np.ndarray] = {}

    def add(self, tracked: TrackedFrame) -> None:
        """Add a frame, if the picture shows it."""
        if tracked.index not in self._chosen:
            return
        self._tracked[f"{tracked.index}"] = overlay_masks(tracked.frame, tracked.predicted)
        if tracked.truth is not None:
            self._true[f"{tracked.index} annotated"] = overlay_masks(tracked.frame, tracked.truth)

    def save(self, path: Path) -> None:
        """Write the picture as a JPEG."""
        rows = {**self._tracked, **self._true} if len(self._true) == len(self._tracked) else self._tracked
        sheet = contact_sheet(
            list(rows.values()), columns=len(self._tracked), captions=list(rows), cell_width=CELL_WIDTH
        )
        with atomic_path(path) as temporary:
            Image.fromarray(sheet).save(temporary, format="JPEG", quality=90)
