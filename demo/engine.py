"""Running models, which `model_store` keeps for all visitors.

The functions take and return plain values and keep nothing, as on a ZeroGPU Space they run in a process of their own
that has a GPU while they last. There `spaces.GPU` arranges that; elsewhere they are called as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from model_store import Models, ModelStore, offered_models, shown_name
from settings import Settings
from video_clip import Clip

from efficienttam_hf import EfficientTamModel, EfficientTamVideoModel
from efficienttam_hf.app import plan as planning
from efficienttam_hf.app import segmenting
from efficienttam_hf.app.loading import choose_device, load_model, quiet_transformers
from efficienttam_hf.app.plan import TrackedFrame, TrackingPlan
from efficienttam_hf.memory_selection import make_strategy
from efficienttam_hf.prompts import ObjectPrompts, Prompts


try:
    import spaces
    from spaces.config import Config as SpacesConfig
except ImportError:
    spaces = None

# There the model is on the GPU only while a function below runs.
ON_ZERO_GPU = spaces is not None and SpacesConfig.zero_gpu


def _on_gpu(seconds: int) -> Callable[[Callable], Callable]:
    """Decorator: on a ZeroGPU Space the function has the GPU for at most so long."""
    return spaces.GPU(duration=seconds) if spaces is not None else lambda function: function


store: ModelStore  # set by `load`


def load(settings: Settings) -> ModelStore:
    """Load the model that visitors begin with, and make the others that the settings offer ready to be chosen.

    Raises:
        ValueError, OSError: if there is none, or no such device or choice of memories.
    """
    global store
    device = choose_device(settings.device)
    chosen = settings.dtype if settings.dtype != "auto" else "bfloat16" if device.type == "cuda" else "float32"
    dtype = getattr(torch, chosen)
    if settings.memory != "auto":
        make_strategy(settings.memory)  # says which there are, if it is none
    quiet_transformers()

    def load_models(name: str) -> Models:
        # As float32, and then cast: while Transformers loads another type, that is torch's default in every thread.
        video, processor = load_model(EfficientTamVideoModel, name, torch.device("cpu"))
        image, _ = load_model(EfficientTamModel, name, torch.device("cpu"))
        if settings.memory != "auto":
            video.config.memory_selection = settings.memory
        return Models(video.to(device, dtype), image.to(device, dtype), processor)

    names, first = offered_models(settings, device)
    if ON_ZERO_GPU:  # processes that have the GPU only know what was loaded before them
        names = [first.name]
    print(f"Model: {first.description}; {device}, {chosen}.")
    if len(names) > 1:
        print(f"Visitors may choose among {', '.join(map(shown_name, names))} (EFFICIENTTAM_MODELS says which).")
    store = ModelStore(names, first.name, load_models, settings.models_in_memory)
    return store


@_on_gpu(seconds=120)
def track(model: str, clip: Clip, prompts: Prompts, plan: TrackingPlan) -> Iterator[TrackedFrame]:
    """Track objects through a clip by a plan, yielding each frame as it is done."""
    with store.use(model) as models, clip.open() as frames:
        yield from planning.track_objects(models.video, models.processor, frames, prompts, plan)


@_on_gpu(seconds=15)
def segment_frame(model: str, frame: np.ndarray, object_id: int, prompts: ObjectPrompts) -> TrackedFrame:
    """What prompts on a frame of a video give."""
    with store.use(model) as models:
        return planning.segment_frame(models.video, models.processor, frame, {object_id: prompts})


@_on_gpu(seconds=15)
def propose_masks(model: str, image: np.ndarray, object_id: int, prompts: ObjectPrompts) -> list[dict[str, Any]]:
    """Three masks for an object in an image, each with its predicted IoU, the best first."""
    with store.use(model) as models:
        found = segmenting.propose_masks(models.image, models.processor, image, {object_id: prompts}, multimask=True)
    return sorted(found[object_id], key=lambda proposal: -proposal["score"])


@_on_gpu(seconds=60)
def segment_everything(model: str, image: np.ndarray, grid: int, least_iou: float) -> list[dict[str, Any]]:
    """All objects of an image with a predicted IoU of at least that, largest first.

    Masks are not judged by their stability as well: what is usual there depends on the model, and one slider is enough.
    """
    with store.use(model) as models:
        return segmenting.segment_everything(models.image, models.processor, image, grid, least_iou, min_stability=0.0)


class LiveSession:
    """Objects in a camera's frames. Of what passed, only what tracking itself looks at is kept."""

    def __init__(self, model: str) -> None:
        self._model = model
        with store.use(model) as models:
            self._session = models.processor.init_video_session(
                inference_device=models.video.device, dtype=models.video.dtype, keep_history=False
            )

    def prompt(self, object_id: int, prompts: ObjectPrompts, size: tuple[int, int]) -> None:
        """Prompts for an object on the next frame, of `size` (height, width)."""
        next_frame = self._session.num_frames or 0
        with store.use(self._model) as models:
            planning.add_prompts(
                models.video,
                models.processor,
                self._session,
                next_frame,
                object_id,
                prompts,
                original_size=size,
            )

    @torch.no_grad()
    def track(self, frame: np.ndarray) -> dict[int, np.ndarray]:
        """The objects' masks on the next frame: bool (height, width) by object id."""
        with store.use(self._model) as models:
            output = models.video(self._session, frame=frame)
            masks = models.processor.post_process_masks([output.pred_masks], [frame.shape[:2]])[0][:, 0].cpu().numpy()
        return dict(zip(output.object_ids, masks, strict=True))
