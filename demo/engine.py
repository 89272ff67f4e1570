"""Runs the models, which `model_store` loads for all visitors.

The functions take and return plain values and have no state. On a ZeroGPU Space, `spaces.GPU` runs each of them in a
separate process that has a GPU while the function runs. Elsewhere they are ordinary calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from model_store import Models, ModelStore, offered_models, shown_name
from settings import Settings
from text_detector import SharedDetector
from uploads import UserError
from video_clip import Clip

from efficienttam_hf import EfficientTamModel, EfficientTamVideoModel
from efficienttam_hf.app import plan as planning
from efficienttam_hf.app import segmenting
from efficienttam_hf.app.example_clip import example_frames
from efficienttam_hf.app.finding import find_on_frame
from efficienttam_hf.app.loading import choose_device, load_model, quiet_transformers
from efficienttam_hf.app.plan import TrackedFrame, TrackingPlan
from efficienttam_hf.app.precision import choose_dtype
from efficienttam_hf.discovery import DetectionError, FinderOptions, FoundObject, NothingFoundError
from efficienttam_hf.discovery.track_book import MatchRules
from efficienttam_hf.memory_selection import make_strategy
from efficienttam_hf.prompts import ObjectPrompts, Prompts


try:
    import spaces
    from spaces.config import Config as SpacesConfig
except ImportError:
    spaces = None

# On a ZeroGPU Space, the model is on the GPU only while one of the functions below runs.
ON_ZERO_GPU = spaces is not None and SpacesConfig.zero_gpu


def _on_gpu(seconds: int) -> Callable[[Callable], Callable]:
    """Return a decorator. On a ZeroGPU Space, the decorated function has the GPU for at most this number of seconds."""
    return spaces.GPU(duration=seconds) if spaces is not None else lambda function: function


store: ModelStore  # set by `load`
detector: SharedDetector  # set by `load`


def load(settings: Settings) -> ModelStore:
    """Load the model that visitors begin with, and set `store` and `detector`, which load other models when needed.

    Args:
        settings: the settings of the demo.

    Returns:
        The store of models.

    Raises:
        ValueError, OSError: if the model, the device or the memory strategy does not exist.
    """
    global store, detector
    device = choose_device(settings.device)
    fixed = settings.dtype
    if fixed == "auto" and device.type != "cpu":
        fixed = "bfloat16" if device.type == "cuda" else "float32"
    if settings.memory != "auto":
        make_strategy(settings.memory)  # raises an error that lists the strategies if this one is unknown
    quiet_transformers()

    def load_models(name: str) -> Models:
        # Models are loaded as float32 and then converted: Transformers sets torch's default dtype, for all threads,
        # while it loads.
        video, processor = load_model(EfficientTamVideoModel, name, torch.device("cpu"))
        image, _ = load_model(EfficientTamModel, name, torch.device("cpu"))
        if fixed == "auto":
            dtype, reason = choose_dtype(video, lambda model: _example_masks(model, processor))
            print(f"{name}: {str(dtype).removeprefix('torch.')} ({reason}).")
        else:
            dtype = getattr(torch, fixed)
        if settings.memory != "auto":
            video.config.memory_selection = settings.memory
        return Models(video.to(device, dtype), image.to(device, dtype), processor)

    names, first = offered_models(settings, device)
    if ON_ZERO_GPU:  # processes that have the GPU only know the models that were loaded before they started
        names = [first.name]
    print(f"Model: {first.description}; {device}, {fixed}.")
    if len(names) > 1:
        print(
            f"Visitors may choose among {', '.join(map(shown_name, names))} (set EFFICIENTTAM_MODELS to change this)."
        )
    detector = SharedDetector(settings, device)
    store = ModelStore(names, first.name, load_models, settings.models_in_memory)
    return store


def _example_masks(model: Any, processor: Any) -> Iterator[np.ndarray]:
    """What a model tracks in the first frames of a clip, which are drawn: a server has no video of its user yet."""
    frames, click = example_frames()
    return planning.first_masks(model, processor, frames, {0: {1: ObjectPrompts([click], [1])}})


@_on_gpu(seconds=120)
def track(model: str, clip: Clip, prompts: Prompts, plan: TrackingPlan) -> Iterator[TrackedFrame]:
    """Track objects through a clip and yield each frame when it is done.

    Args:
        model: the name of the model.
        clip: the part of the video.
        prompts: the prompts by frame and object, in pixels of the clip.
        plan: the frames on which each object is tracked.
    """
    with store.use(model) as models, clip.open() as frames:
        yield from planning.track_objects(models.video, models.processor, frames, prompts, plan)


@_on_gpu(seconds=15)
def segment_frame(model: str, frame: np.ndarray, object_id: int, prompts: ObjectPrompts) -> TrackedFrame:
    """Segment one object on a frame of a video from its prompts.

    Args:
        model: the name of the model.
        frame: uint8 (height, width, 3) RGB.
        object_id: the id of the object.
        prompts: its prompts, in pixels of the frame.
    """
    with store.use(model) as models:
        return planning.segment_frame(models.video, models.processor, frame, {object_id: prompts})


@_on_gpu(seconds=60)
def find_objects(
    model: str, frame: np.ndarray, texts: Sequence[str] | None, known: Mapping[int, np.ndarray], most: int
) -> tuple[TrackedFrame, dict[int, ObjectPrompts], list[FoundObject]]:
    """Find objects in a picture without clicks.

    Args:
        model: the name of the model.
        frame: uint8 (height, width, 3) RGB.
        texts: what to look for; `None` stands for everything.
        known: the masks, bool (height, width), of objects by id that are not to be found again.
        most: the largest number of objects, with the known ones.

    Returns:
        See `find_on_frame`.

    Raises:
        UserError: if texts cannot be looked for, the detector fails, or nothing is found.
    """
    source = "everything" if texts is None else detector.for_texts(texts)
    options = FinderOptions(every=0, rules=MatchRules(max_objects=most))
    try:
        with store.use(model) as models:
            return find_on_frame(models.video, models.processor, frame, source, options, known)
    except NothingFoundError as error:
        what = "nothing that is not marked already" if texts is None else f"looked for {error.looks_for}"
        raise UserError(
            f"No new object was found on this frame ({what}). Try another frame, or click on an object."
        ) from error
    except DetectionError as error:
        raise UserError(str(error)) from error


@_on_gpu(seconds=15)
def propose_masks(model: str, image: np.ndarray, prompts: dict[int, ObjectPrompts]) -> dict[int, list[dict[str, Any]]]:
    """Return three masks for each object in an image, the best first.

    Args:
        model: the name of the model.
        image: uint8 (height, width, 3) RGB.
        prompts: the points and boxes of each object by its id, in pixels of the image.

    Returns:
        For each object id, dictionaries with `mask`, bool (height, width), and `score`, the predicted IoU.
    """
    with store.use(model) as models:
        found = segmenting.propose_masks(models.image, models.processor, image, prompts, multimask=True)
    return {i: sorted(proposals, key=lambda one: -one["score"]) for i, proposals in found.items()}


@_on_gpu(seconds=60)
def segment_everything(model: str, image: np.ndarray, grid: int, least_iou: float) -> list[dict[str, Any]]:
    """Return all objects of an image whose predicted IoU is at least `least_iou`, the largest first.

    Masks are not filtered by stability, because its usual values depend on the model and one slider is enough.

    Args:
        model: the name of the model.
        image: uint8 (height, width, 3) RGB.
        grid: the number of points along each side of the image.
        least_iou: the smallest predicted IoU, from 0 to 1.
    """
    with store.use(model) as models:
        return segmenting.segment_everything(models.image, models.processor, image, grid, least_iou, min_stability=0.0)


class LiveSession:
    """Tracks objects in the frames of a camera. Only the memories that tracking needs are kept.

    Args:
        model: the name of the model.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        with store.use(model) as models:
            self._session = models.processor.init_video_session(
                inference_device=models.video.device, dtype=models.video.dtype, keep_history=False
            )

    def prompt(self, object_id: int, prompts: ObjectPrompts, size: tuple[int, int]) -> None:
        """Add prompts for an object on the next frame.

        Args:
            object_id: the id of the object.
            prompts: its prompts, in pixels of the frame.
            size: (height, width) of the frame.
        """
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
        """Track the objects on the next frame.

        Args:
            frame: uint8 (height, width, 3) RGB.

        Returns:
            The masks, bool (height, width), by object id.
        """
        with store.use(self._model) as models:
            output = models.video(self._session, frame=frame)
            masks = models.processor.post_process_masks([output.pred_masks], [frame.shape[:2]])[0][:, 0].cpu().numpy()
        return dict(zip(output.object_ids, masks, strict=True))
