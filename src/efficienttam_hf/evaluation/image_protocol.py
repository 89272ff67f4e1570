"""Prompted image segmentation (Table 3 of the paper): mIoU after one to five clicks.

The protocol is that of SAM (arXiv 2304.02643, section 7.1), which SAM 2 also uses. The first click is at the centre of
the object; the decoder makes three proposals, and the one with the highest predicted IoU is taken. Each further click
is at the centre of the largest wrong region. The decoder receives it with the earlier clicks and the logits of the
previous mask, and returns one mask. The score is the IoU with the annotation, averaged over objects and then over
datasets if there are several.

Records can be images with instances (COCO, SA-1B), or videos, whose annotated frames are used as separate images. An
image is encoded once and its objects are decoded in batches. Masks are resized to the image one object at a time, so
that hundreds of objects in a large image fit into RAM.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.records import VideoRecord
from ..modeling_efficienttam import EfficientTamModel
from ..processing_efficienttam import EfficientTamProcessor, EfficientTamVideoProcessor
from .prompted import correcting_click
from .region_boundary import region_similarity
from .result_folder import ResultFolder
from .results import EvaluationResult, ObjectResult, VideoResult
from .runner import VIDEO_ERRORS, model_settings, name_of, reason_of, stamp_of, surroundings
from .sharing import Processes


__all__ = ["ImageOptions", "click_objects", "evaluate_images", "mean_over_datasets", "summarize_images"]


@dataclass(frozen=True)
class ImageOptions:
    """Options of the evaluation of images.

    Attributes:
        dataset, split, model: descriptions that :class:`EvaluationResult` stores.
        clicks: number of clicks on an object, at least one.
        frames_per_video: number of annotated frames of a video that are used, evenly spaced; `None` for all.
        batch_size: number of objects that are decoded together.
        output: folder in which the result of each image is stored, so that a stopped run can be resumed; `None` to
            store nothing.
        overwrite: whether results in `output` are removed first, also those of other settings.
        progress: whether to show a progress bar.
    """

    dataset: str = "folder"
    split: str = ""
    model: str = ""
    clicks: int = 5
    frames_per_video: int | None = None
    batch_size: int = 32
    output: Path | None = None
    overwrite: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("clicks", "frames_per_video", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")


def evaluate_images(
    model: EfficientTamModel,
    processor: EfficientTamProcessor | EfficientTamVideoProcessor,
    records: Sequence[VideoRecord],
    options: ImageOptions = ImageOptions(),  # noqa: B008 -- it is immutable
    processes: Processes | None = None,
) -> EvaluationResult:
    """Click on every object of every image and score the resulting masks.

    Args:
        model: the image or the video model; it runs in evaluation mode and is then returned to its previous mode.
        processor: the processor of the model.
        records: images, or videos, whose annotated frames are the images.
        options: the options of the evaluation.
        processes: the processes that share the work, each of which calls this function; by default only this one.

    Returns:
        A result with an entry for each image, in every process. An object's `clicks` has its IoU after each click. An
        image that cannot be read has an entry with an `error`, and the others are evaluated.

    Raises:
        ValueError: if an option is invalid, or the output folder has results of other settings.
        ImportError: if OpenCV is not installed.
    """
    chosen = {"protocol": "images", "clicks": options.clicks, "frames_per_video": options.frames_per_video}
    settings = {"dataset": options.dataset, **chosen, **model_settings(model)}
    folder = None if options.output is None else ResultFolder(Path(options.output), settings)
    is_main = processes is None or processes.is_main
    if folder is not None and is_main:
        folder.prepare(options.overwrite)
    todo = range(len(records))
    if processes is not None:
        processes.wait()
        todo = todo[processes.index :: processes.count]

    found = []
    was_training = model.training
    model.eval()
    try:
        for index in tqdm(todo, desc="evaluating", disable=not (options.progress and is_main)):
            stamp = "" if folder is None else stamp_of(records, index)
            try:
                record = records[index]
            except VIDEO_ERRORS as error:
                found.append((index, VideoResult(name_of(records, index), error=reason_of(error))))
                continue
            found += [(index, im) for im in _evaluate_record(model, processor, record, options, folder, stamp)]
    finally:
        model.train(was_training)
    if processes is not None:
        found = sorted(processes.gather(found), key=lambda entry: entry[0])
    result = EvaluationResult(
        protocol="images",
        dataset=options.dataset,
        split=options.split,
        model=options.model,
        prompt=f"{options.clicks}-click",
        convention="mean over objects",
        settings={**settings, **surroundings(model)},
        videos=[image for _, image in found],
    )
    result.summary = summarize_images(result)
    return result


def _evaluate_record(
    model: EfficientTamModel,
    processor: EfficientTamProcessor | EfficientTamVideoProcessor,
    record: VideoRecord,
    options: ImageOptions,
    folder: ResultFolder | None,
    stamp: str,
) -> Iterator[VideoResult]:
    """Evaluate the images of a record, one after another."""
    try:
        frames = record.annotated_frames
        if options.frames_per_video is not None and len(frames) > options.frames_per_video:
            places = np.linspace(0, len(frames) - 1, options.frames_per_video).round().astype(int)
            frames = [frames[place] for place in places]
        is_image = record.num_frames == 1
    except VIDEO_ERRORS as error:
        yield VideoResult(record.video_id, error=reason_of(error))
        return
    for index in frames:
        name = record.video_id if is_image else f"{record.video_id}/{index:05d}"
        result = None if folder is None else folder.done(name, stamp, masks=False, picture=False)
        if result is None:
            try:
                result = _evaluate_image(model, processor, record, index, name, options)
            except VIDEO_ERRORS as error:
                result = VideoResult(name, num_frames=1, error=reason_of(error))
            if folder is not None:
                folder.keep(result, stamp, masks=False)
        yield result


def _evaluate_image(
    model: EfficientTamModel,
    processor: EfficientTamProcessor | EfficientTamVideoProcessor,
    record: VideoRecord,
    index: int,
    name: str,
    options: ImageOptions,
) -> VideoResult:
    """Evaluate one annotated frame, whose result gets a name."""
    image, masks, void = record.frame(index), record.masks(index), record.void(index)
    start = time.perf_counter()
    objects = click_objects(model, processor, image, masks, void, clicks=options.clicks, batch_size=options.batch_size)
    seconds = time.perf_counter() - start
    for scores in objects:
        scores.category = record.categories.get(scores.object_id)
    return VideoResult(name, 1, image.shape[0], image.shape[1], int(bool(objects)), seconds, objects)


@torch.inference_mode()
def click_objects(
    model: EfficientTamModel,
    processor: EfficientTamProcessor | EfficientTamVideoProcessor,
    image: np.ndarray,
    masks: Mapping[int, np.ndarray],
    void: np.ndarray | None = None,
    *,
    clicks: int = 5,
    batch_size: int = 32,
) -> list[ObjectResult]:
    """Segment the objects of an image by simulated clicks.

    Args:
        model: the model in evaluation mode.
        processor: the processor of the model.
        image: uint8 (height, width, 3), RGB.
        masks: annotated masks, bool (height, width), by object id.
        void: pixels that are not annotated, bool (height, width); they are neither clicked on nor counted.
        clicks: number of clicks on each object. An object whose mask has no error gets no more and keeps its score.
        batch_size: number of objects that are decoded together.

    Returns:
        The scores of each object that has pixels outside `void`, by ascending id.
    """
    targets = [_Target(i, mask if void is None else mask & ~void, void) for i, mask in sorted(masks.items())]
    targets = [target for target in targets if target.truth.any()]
    if not targets:
        return []
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    features = model.get_image_embeddings(pixels.to(model.device, model.dtype))[-1]
    for first in range(0, len(targets), batch_size):
        batch = targets[first : first + batch_size]
        for _ in range(clicks):
            _click(model, processor, features, batch)
    return [target.result() for target in targets]


@dataclass
class _Target:
    """The state of an object between clicks.

    Attributes:
        object_id: the annotated object id.
        truth: the annotated mask without void pixels, bool (height, width).
        void: the void pixels, bool (height, width), or `None`.
        predicted: the latest mask, bool (height, width); `None` before the first click.
        logits: the decoder's logits of this mask, (1, h, w).
        points, labels: the clicks so far, in pixels of the image.
        scores: the IoU after each click.
        best_of_three: the IoU of the best proposal of the first click.
    """

    object_id: int
    truth: np.ndarray
    void: np.ndarray | None
    predicted: np.ndarray | None = None
    logits: Tensor | None = None
    points: list[list[int]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_of_three: float = math.nan

    def add_click(self) -> bool:
        """Click on the largest wrong region; return False if there is nothing to correct."""
        click = correcting_click(self.truth, np.zeros_like(self.truth) if self.predicted is None else self.predicted)
        if click is None:
            return False
        self.points.append(list(click[0]))
        self.labels.append(int(click[1]))
        return True

    def take(self, masks: np.ndarray, logits: Tensor, choice: int) -> None:
        """Store one of M masks, bool (M, height, width) with logits (M, h, w), and its score; `choice` is its index."""
        if self.void is not None:
            masks = masks & ~self.void
        scores = [float(region_similarity(mask, self.truth)) for mask in masks]
        if not self.scores:
            self.best_of_three = max(scores)
        self.scores.append(scores[choice])
        self.predicted, self.logits = masks[choice], logits[choice : choice + 1]

    def result(self) -> ObjectResult:
        return ObjectResult(
            self.object_id, [0], [self.scores[-1]], clicks=self.scores, best_of_three=self.best_of_three
        )


def _click(
    model: EfficientTamModel,
    processor: EfficientTamProcessor | EfficientTamVideoProcessor,
    features: Tensor,
    batch: list[_Target],
) -> None:
    """Click once more on each object and decode its next mask from the (1, C, H, W) features of the image."""
    open_targets = []
    for target in batch:
        if target.add_click():
            open_targets.append(target)
        else:
            target.scores.append(target.scores[-1])
    if not open_targets:
        return
    size = open_targets[0].truth.shape
    prompts = processor(
        original_sizes=[size],
        input_points=[[target.points for target in open_targets]],
        input_labels=[[target.labels for target in open_targets]],
        return_tensors="pt",
    )
    is_first = open_targets[0].logits is None
    previous = None if is_first else torch.stack([t.logits for t in open_targets if t.logits is not None])
    # The model takes one mask prompt per image, so each object is passed as a separate image with the same features.
    logits, predicted_iou, _, _ = model.decode_masks(
        features.expand(len(open_targets), -1, -1, -1),
        prompts["input_points"].transpose(0, 1).to(features.device),
        prompts["input_labels"].transpose(0, 1).to(features.device),
        input_masks=previous,
        multimask_output=is_first,
    )
    bound = model.config.previous_mask_clamp
    for target, of_target, choice in zip(open_targets, logits[:, 0], predicted_iou[:, 0].argmax(-1), strict=True):
        masks = processor.post_process_masks([of_target[None]], [size])[0][0]
        target.take(masks.cpu().numpy(), of_target.clamp(-bound, bound), int(choice))


def summarize_images(result: EvaluationResult) -> dict[str, float]:
    """Compute the mIoU over the objects of all images after each click, and of the best of the first three proposals.

    Returns:
        `"1-click mIoU"` and so on, `"1-click best-of-three mIoU"`, and `"mIoU"`, which is that after the last click.
        The result is empty if there are no objects.
    """
    objects = [scores for image in result.videos for scores in image.objects]
    if not objects:
        return {}
    after = np.mean([scores.clicks for scores in objects], axis=0)
    return {
        **{f"{number}-click mIoU": float(value) for number, value in enumerate(after, start=1)},
        "1-click best-of-three mIoU": float(np.mean([scores.best_of_three for scores in objects])),
        "mIoU": float(after[-1]),
    }


def mean_over_datasets(results: Sequence[EvaluationResult]) -> dict[str, float]:
    """The mean of the summaries of several datasets with equal weights, as for SA-23.

    Raises:
        ValueError: if there is nothing to average, or the summaries have different entries.
    """
    summaries = [result.summary for result in results]
    if not summaries or not all(summaries) or len({tuple(summary) for summary in summaries}) > 1:
        raise ValueError(
            "A mean over datasets needs the same numbers of each; got "
            + "; ".join(f"{result.dataset}: {', '.join(result.summary) or 'none'}" for result in results)
            + "."
        )
    return {key: float(np.mean([summary[key] for summary in summaries])) for key in summaries[0]}
