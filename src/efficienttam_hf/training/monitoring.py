"""Looking on while a model learns: sample pictures, and scores on annotated videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..atomic_file import atomic_path
from ..data.batch import ClipBatch
from ..evaluation.semi_supervised import AnnotatedFrame, track_and_score
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..processing_efficienttam import EfficientTamVideoProcessor
from ..visualization import contact_sheet, overlay_masks
from .clip_tracker import ClipOutput


CLIPS_ON_SHEET, FRAMES_ON_SHEET = 4, 8


def evaluate_videos(
    model: EfficientTamVideoModel,
    processor: EfficientTamVideoProcessor,
    videos: Sequence[Any],
    prompt: str = "mask",
    max_frames: int | None = None,
) -> dict[str, float]:
    """J&F, 0 to 1, of each annotated video (see `evaluation.semi_supervised`), by name.

    Args:
        model: in evaluation mode.
        processor: that of the model.
        videos: of `data.loading.load_records`.
        prompt: what is shown of an object on its first frame.
        max_frames: only so many frames of each.
    """
    scores = {}
    with torch.inference_mode():
        for video in videos:
            frames = islice(_annotated_frames(video), max_frames)
            scored = track_and_score(model, processor, frames, prompt=prompt, name=video.video_id)
            scores[video.video_id] = scored.j_and_f
    return scores


def _annotated_frames(video: Any) -> Iterator[AnnotatedFrame]:
    for index in video.annotated_frames:
        yield video.frame(index), video.masks(index)


def draw_overlays(path: Path, batch: ClipBatch, output: ClipOutput) -> None:
    """The first clips of a batch as a picture: a row with the true masks, and below it one with the predicted."""
    images, captions = [], []
    frames = batch.frames.permute(0, 1, 3, 4, 2).cpu().numpy()
    size = batch.masks.shape[-2:]
    predicted = torch.nn.functional.interpolate(output.pred_masks.float(), size=size, mode="bilinear") > 0.5
    shown = list(range(len(frames)))[:FRAMES_ON_SHEET]
    for clip in range(min(CLIPS_ON_SHEET, frames.shape[1])):
        rows = (batch.clip_index == clip).nonzero().squeeze(1).cpu()
        for name, masks in (("true", batch.masks.cpu()), ("predicted", predicted.cpu())):
            for t in shown:
                of_frame: dict[int, np.ndarray] = {i + 1: masks[t, row].numpy() for i, row in enumerate(rows.tolist())}
                images.append(overlay_masks(frames[t, clip], of_frame))
                captions.append(f"{name} {t}")
    sheet = contact_sheet(images, columns=len(shown) if len(shown) > 1 else 2, captions=captions)
    with atomic_path(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")


__all__ = ["draw_overlays", "evaluate_videos"]
