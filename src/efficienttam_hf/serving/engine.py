"""The model of the service, and what is computed with it. Everything here runs on the worker's thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..app.clips import Clip
from ..app.plan import TrackedFrame, TrackingPlan, segment_frame, track_objects
from ..app.segmenting import propose_masks, segment_everything
from ..prompts import ObjectPrompts, Prompts


if TYPE_CHECKING:
    from ..modeling_efficienttam import EfficientTamModel
    from ..modeling_efficienttam_video import EfficientTamVideoModel
    from ..processing_efficienttam import EfficientTamVideoProcessor


EVERYTHING = {"min_score": 0.88, "min_stability": 0.95}  # as `efficienttam segment --everything` has them


@dataclass(frozen=True)
class Engine:
    """A model for videos and one for images with the same weights.

    Attributes:
        name: the name of the model, for clients: without the folders of a path.
        device: where it runs.
    """

    video: EfficientTamVideoModel
    image: EfficientTamModel
    processor: EfficientTamVideoProcessor
    name: str
    device: str

    def track(self, clip: Clip, prompts: Prompts, plan: TrackingPlan) -> Iterator[TrackedFrame]:
        """Track objects through a clip by a plan, yielding each frame when it is finished."""
        with clip.open() as frames:
            yield from track_objects(self.video, self.processor, frames, prompts, plan)

    def segment_frame(self, clip: Clip, index: int, prompts: dict[int, ObjectPrompts]) -> TrackedFrame:
        """Segment objects from their prompts on one frame of a clip."""
        with clip.open(read_ahead=0) as frames:
            image = frames[index]
        found = segment_frame(self.video, self.processor, image, prompts)
        return TrackedFrame(index, found.object_ids, found.logits, found.scores)

    def propose_masks(
        self, image: np.ndarray, prompts: dict[int, ObjectPrompts], multimask: bool | None = None
    ) -> dict[int, list[dict[str, Any]]]:
        """Segment an image from prompts; see `app.segmenting.propose_masks`. The best proposal comes first."""
        found = propose_masks(self.image, self.processor, image, prompts, multimask)
        return {i: sorted(proposals, key=lambda one: -one["score"]) for i, proposals in found.items()}

    def segment_everything(self, image: np.ndarray, grid: int) -> list[dict[str, Any]]:
        """Segment all objects of an image; see `app.segmenting.segment_everything`."""
        return segment_everything(self.image, self.processor, image, grid, **EVERYTHING)


def load_engine(model: str | None, device: str = "auto", dtype: str = "float32") -> Engine:
    """Load a model by name, as the commands do; see `app.loading.choose_model`.

    Raises:
        ValueError, OSError: if there is no such model or device.
    """
    from pathlib import Path

    from ..app.loading import choose_device, choose_model, load_model, quiet_transformers
    from ..modeling_efficienttam import EfficientTamModel
    from ..modeling_efficienttam_video import EfficientTamVideoModel

    chosen_device = choose_device(device)
    quiet_transformers()
    chosen = choose_model(model, chosen_device)
    video, processor = load_model(EfficientTamVideoModel, chosen.name, chosen_device, dtype)
    image, _ = load_model(EfficientTamModel, chosen.name, chosen_device, dtype)
    print(f"Model: {chosen.description}; {chosen_device}, {dtype}.")
    name = Path(chosen.name).resolve().name if Path(chosen.name).is_dir() else chosen.name
    return Engine(video, image, processor, name, str(chosen_device))
