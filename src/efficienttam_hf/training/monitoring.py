"""Monitoring of a run: the metrics of a step, and overlays of sample clips."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..atomic_file import atomic_path
from ..data.batch import ClipBatch
from ..visualization import contact_sheet, overlay_masks
from .clip_tracker import ClipOutput


if TYPE_CHECKING:
    from accelerate import Accelerator


__all__ = ["log_picture", "overlay_sheet", "progress_bar", "save_picture", "step_numbers", "watch"]


T = TypeVar("T")

CLIPS_ON_SHEET, FRAMES_ON_SHEET = 4, 8


def step_numbers(outputs: Sequence[ClipOutput], num_objects: float, accelerator: Accelerator) -> dict[str, float]:
    """Return the loss and its terms for a whole step, over all micro-batches. All processes must call this.

    Args:
        outputs: the outputs of this process's micro-batches.
        num_objects: the number of objects in the micro-batches of a process, averaged over processes.
        accelerator: the accelerator, which communicates with the other processes.

    Returns:
        `loss`, which is minimised; each of its terms, unweighted, as a mean over objects; `mask_iou`, a mean over the
        predicted masks; and `feature_loss` if there is a teacher.
    """
    iou = torch.cat([output.iou.flatten() for output in outputs])
    sums: dict[str, Any] = {
        "loss": sum(output.loss.detach() for output in outputs),
        "predicted": (~iou.isnan()).sum().float(),
        "mask_iou": iou.nansum(),
    }
    for name in vars(outputs[0].object_losses):
        sums[name] = sum(getattr(output.object_losses, name).sum() for output in outputs) / num_objects
    if outputs[0].feature_loss is not None:
        losses = [output.feature_loss for output in outputs if output.feature_loss is not None]
        sums["feature_loss"] = torch.stack(losses).sum() / len(outputs)
    means = accelerator.reduce(torch.stack([value.float() for value in sums.values()]), "mean").tolist()
    numbers = dict(zip(sums, means, strict=True))
    numbers["mask_iou"] /= max(numbers.pop("predicted"), 1e-9)
    return numbers


def progress_bar(total: int, done: int, disable: bool) -> tqdm:
    """Make a progress bar over the steps of a run. In a log file, it is a line from time to time."""
    if sys.stderr.isatty():
        return tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, disable=disable)
    line = "step {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]\n"
    return tqdm(total=total, initial=done, unit="step", bar_format=line, mininterval=30, disable=disable)


def watch(videos: Sequence[T], what: str, disable: bool) -> tqdm[T]:
    """Iterate over videos with a progress bar that is labelled with `what`, the work on them."""
    if sys.stderr.isatty():
        return tqdm(videos, desc=what, unit="video", dynamic_ncols=True, leave=False, disable=disable)
    line = what + ": video {n_fmt}/{total_fmt} [{elapsed}<{remaining}]\n"
    return tqdm(videos, unit="video", bar_format=line, mininterval=30, disable=disable)


def overlay_sheet(batch: ClipBatch, output: ClipOutput) -> np.ndarray:
    """Draw the first clips of a batch: for each, a row with the true masks and below it a row with the predicted masks.

    Args:
        batch: clips of T frames with O objects.
        output: the model's output for these clips.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    frames = batch.frames[:FRAMES_ON_SHEET].permute(0, 1, 3, 4, 2).cpu().numpy()
    truth = batch.masks.cpu().numpy()
    predicted = torch.nn.functional.interpolate(output.pred_masks.float(), truth.shape[-2:], mode="bilinear") > 0.5
    images, captions = [], []
    for clip in range(min(CLIPS_ON_SHEET, frames.shape[1])):
        objects = (batch.clip_index == clip).nonzero().squeeze(1).tolist()
        for name, masks in (("true", truth), ("predicted", predicted.cpu().numpy())):
            for t, frame in enumerate(frames[:, clip]):
                shown: dict[int, np.ndarray] = {i: masks[t, row] for i, row in enumerate(objects, start=1)}
                images.append(overlay_masks(frame, shown))
                captions.append(f"{name} {t}")
    return contact_sheet(images, columns=max(2, len(frames)), captions=captions)


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Write an RGB picture (height, width, 3) as a PNG."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def log_picture(accelerator: Accelerator, name: str, picture: np.ndarray, step: int) -> None:
    """Log an RGB picture (height, width, 3) to the trackers that accept pictures."""
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: picture[None]}, step=step, dataformats="NHWC")
        elif tracker.name in ("wandb", "trackio"):
            tracker.log_images({name: [picture]}, step=step)
