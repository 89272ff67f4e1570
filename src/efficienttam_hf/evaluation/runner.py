"""Evaluates a model on the videos of a dataset: reads, tracks and scores each video, and stores its result.

The command line, training and the ablations all evaluate videos with this file. A video is read frame by frame (see
`semi_supervised`), so that RAM use does not grow with its length. Results are stored as soon as a video is finished
(see `result_folder`): a stopped run can be resumed, and a video that fails does not stop the others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tqdm import tqdm
from transformers import PreTrainedModel

from ..checkpoints import weights_sha256
from ..configuration_efficienttam import size_pair
from ..data.layouts import rules_of
from ..data.loading import VideoRecords
from ..data.records import VideoRecord
from ..data.schema import DatasetError
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..output_folders import OutputFolder
from ..processing_efficienttam import EfficientTamVideoProcessor
from ..safe_names import one_line, safe_path
from .conventions import Groups, convention_named
from .pictures import VideoPicture
from .prompted import Prompt, check_prompt
from .result_folder import ResultFolder
from .results import EvaluationResult, ObjectResult, VideoResult
from .scores import DatasetScores, ObjectScores, SequenceScorer, SequenceScores
from .semi_supervised import frames_of, has_hidden_truth, track
from .sharing import Processes, balanced_shares
from .submission import PredictionWriter


__all__ = ["VIDEO_ERRORS", "RunOptions", "default_convention", "evaluate_video", "evaluate_videos", "model_settings"]
__all__ += ["name_of", "reason_of", "result_of", "stamp_of", "summarize", "surroundings"]

logger = logging.getLogger(__name__)

# The errors with which reading, tracking or writing a video can fail: that video is reported, and the others go on.
# Files that are damaged on purpose cause further errors, for example by too deep nesting or too large numbers.
VIDEO_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    LookupError,
    ArithmeticError,
    SyntaxError,
    RecursionError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    torch.cuda.OutOfMemoryError,
)


def default_convention(dataset: str) -> str:
    """The name of the convention that a dataset's layout sets."""
    return rules_of(dataset).scoring


@dataclass(frozen=True)
class RunOptions:
    """Options of the evaluation of videos.

    Attributes:
        protocol, dataset, split, model: descriptions that :class:`EvaluationResult` stores.
        prompt: the prompt of each object, one of `prompted.PROMPTS`.
        convention: the scoring convention, one of `conventions.CONVENTIONS`.
        groups: groups of objects, for a convention that computes means over groups.
        memory: options of `init_video_session` for memory selection; by default, the model's configuration decides.
        max_frames: number of frames of each video that are used, from the first on; `None` for all.
        output: folder of results; `None` to store nothing on disk.
        save_masks: whether predictions are written to `output`/predictions.
        pictures: whether a picture of each video is written to `output`/pictures.
        overwrite: whether results in `output` are removed first, also those of other settings.
        progress: whether to show a progress bar.
    """

    protocol: str = "vos"
    dataset: str = "folder"
    split: str = ""
    model: str = ""
    prompt: Prompt = "mask"
    convention: str = "semi_supervised"
    groups: Groups | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    max_frames: int | None = None
    output: Path | None = None
    save_masks: bool = False
    pictures: bool = False
    overwrite: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        convention_named(self.convention)
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {self.max_frames}.")
        if self.output is None and (self.save_masks or self.pictures):
            raise ValueError("Masks and pictures need a folder to be written to: give `output`.")


def evaluate_videos(
    model: EfficientTamVideoModel,
    processor: EfficientTamVideoProcessor,
    records: Sequence[VideoRecord],
    options: RunOptions = RunOptions(),  # noqa: B008 -- it is immutable
    processes: Processes | None = None,
) -> EvaluationResult:
    """Track each object of each video from its first annotated frame, and score it.

    Args:
        model: the model; it runs in evaluation mode and is then returned to its previous mode.
        processor: the processor of the model.
        records: the videos; see `data.loading.load_records`.
        options: the options of the evaluation.
        processes: the processes that share the work, each of which calls this function; by default only this one.

    Returns:
        The whole result, in every process. Videos that could not be evaluated are among its `failures`.

    Raises:
        ValueError: if `prompt` or `convention` is unknown, or the output folder has results of other settings.
        ImportError: if OpenCV is not installed.
    """
    settings = _deciding_settings(model, options)
    folder = None if options.output is None else ResultFolder(Path(options.output), settings)
    if folder is not None and (processes is None or processes.is_main):
        folder.prepare(options.overwrite)
    if processes is not None:
        processes.wait()
    done = {} if folder is None else _done(folder, records, options)
    todo = [index for index in range(len(records)) if index not in done]
    if processes is not None:
        processes.wait()  # all processes list the remaining videos before any of them begins
        shares = balanced_shares([_length(records, index) for index in todo], processes.count)
        todo = [todo[place] for place in shares[processes.index]]

    found = []
    quiet = not options.progress or (processes is not None and not processes.is_main)
    for index in tqdm(todo, desc="evaluating", unit="video", disable=quiet):
        result, stamp = _evaluate_or_report(model, processor, records, index, options, folder)
        if folder is not None:
            folder.keep(result, stamp, options.save_masks)
        found.append((index, result))
    done.update(found if processes is None else processes.gather(found))
    videos = [done[index] for index in range(len(records))]
    return result_of(videos, options, {**settings, **surroundings(model)})


def result_of(videos: list[VideoResult], options: RunOptions, settings: dict[str, Any]) -> EvaluationResult:
    """The result of an evaluation with these options: its videos, and the scores of all of them."""
    return EvaluationResult(
        protocol=options.protocol,
        dataset=options.dataset,
        split=options.split,
        model=options.model,
        prompt=options.prompt,
        convention=options.convention,
        settings=settings,
        videos=videos,
        summary=summarize(videos, options.convention),
    )


def evaluate_video(
    model: EfficientTamVideoModel,
    processor: EfficientTamVideoProcessor,
    record: VideoRecord,
    options: RunOptions = RunOptions(),  # noqa: B008
) -> VideoResult:
    """Evaluate one video as `evaluate_videos` does, but raise its errors.

    Raises:
        DatasetError: if a frame or a mask is missing, damaged or of another size.
    """
    _check_density(record)
    _check_masks(record, options.max_frames)
    height, width = record.size
    result = VideoResult(record.video_id, record.num_frames, height, width)
    hidden = has_hidden_truth(record)
    scorer, judged = SequenceScorer(convention_named(options.convention)), []
    reported: list[dict[int, tuple[float, float, bool]]] = []  # presence, predicted IoU, truth; of each judged frame
    output = OutputFolder(options.output or "")
    writer = PredictionWriter(output, record) if options.save_masks else None
    shown = range(min(record.num_frames, options.max_frames or record.num_frames))
    picture = VideoPicture([t for t in shown if hidden or t in record.annotated_frames]) if options.pictures else None

    frames = frames_of(record, options.max_frames)
    overlap = rules_of(record.source).masks_overlap
    with closing(frames):  # this ends its thread, also if tracking fails
        for tracked in track(model, processor, frames, options.prompt, overlap, options.memory):
            result.tracked_frames += bool(tracked.predicted)
            result.seconds += tracked.seconds
            if tracked.truth is not None and not hidden:
                scorer.add(tracked.truth, tracked.predicted, tracked.void)
                judged.append(tracked.index)
                reported.append(
                    {i: (*scores, _is_present(tracked.truth.get(i))) for i, scores in tracked.scores.items()}
                )
            if writer is not None:
                writer.write(tracked)
            if picture is not None:
                picture.add(tracked)
    if picture is not None:
        result.picture = f"pictures/{safe_path(record.video_id).as_posix()}.jpg"
        picture.save(output.add(result.picture))
    groups = None if options.groups is None else options.groups.get(record.video_id)
    result.objects = sorted(
        (
            ObjectResult(
                scores.object_id,
                [judged[place] for place in scores.frames],
                scores.j.tolist(),
                scores.f.tolist(),
                record.categories.get(scores.object_id),
                scores.group,
                **_reported_scores([reported[place].get(scores.object_id) for place in scores.frames]),
            )
            for scores in scorer.scores(groups)
        ),
        key=lambda found: found.object_id,
    )
    return result


def _is_present(mask: np.ndarray | None) -> bool:
    return mask is not None and bool(mask.any())


def _reported_scores(of_frames: list[tuple[float, float, bool] | None]) -> dict[str, Any]:
    """The reported scores of an object as fields of `ObjectResult`; empty if they are not known for every frame.

    They are not if the tracker reports none, or if a convention scores several objects as one.
    """
    known = [found for found in of_frames if found is not None]
    if len(known) < len(of_frames) or not known:
        return {}
    presence, predicted_iou, present = map(list, zip(*known, strict=True))
    return {"presence": presence, "predicted_iou": predicted_iou, "present": present}


def _check_density(record: VideoRecord) -> None:
    """Raise DatasetError if a frame without a mask would be left out of the score although all must have masks."""
    missing = sorted(set(range(record.num_frames)) - set(record.annotated_frames))
    every_frame = rules_of(record.source).annotates_every_frame
    if every_frame and record.complete and len(record.annotated_frames) > 1 and missing:
        raise DatasetError(
            f"{record.frames.name(missing[0])} has no mask, nor have {len(missing) - 1} others: {record.source} "
            f"annotates every frame. Unpack the masks of '{record.video_id}' again."
        )


def _check_masks(record: VideoRecord, max_frames: int | None) -> None:
    """Decode every mask once, so that an invalid mask is found before the video is tracked."""
    for frame in record.annotated_frames:
        if max_frames is None or frame < max_frames:
            record.masks_source.read(frame, record.size)


def summarize(videos: Sequence[VideoResult], convention: str) -> dict[str, float]:
    """The scores of a dataset under a convention; empty if nothing could be scored."""
    sequences = [
        SequenceScores(
            video.name,
            [ObjectScores(o.object_id, np.array(o.j), np.array(o.f), o.group, o.frames) for o in video.objects],
            video.tracked_frames,
            video.seconds,
        )
        for video in videos
        if video.objects
    ]
    return DatasetScores(sequences, convention_named(convention)).summary() if sequences else {}


def _evaluate_or_report(
    model: EfficientTamVideoModel,
    processor: EfficientTamVideoProcessor,
    records: Sequence[VideoRecord],
    index: int,
    options: RunOptions,
    folder: ResultFolder | None,
) -> tuple[VideoResult, str]:
    """Evaluate a video or report its error; also return the stamp of its files before the evaluation."""
    stamp = "" if folder is None else stamp_of(records, index)
    try:
        return evaluate_video(model, processor, records[index], options), stamp
    except VIDEO_ERRORS as error:
        name = name_of(records, index)
        logger.warning("The video '%s' is left out: %s", one_line(name), error)
        return VideoResult(name, error=reason_of(error)), stamp


def reason_of(error: BaseException) -> str:
    """The text of an error for the report, with the error's type if the text alone is not clear."""
    return f"{error}" if isinstance(error, ValueError | OSError) and f"{error}" else f"{type(error).__name__}: {error}"


def _done(folder: ResultFolder, records: Sequence[VideoRecord], options: RunOptions) -> dict[int, VideoResult]:
    """The results that an earlier run has stored, by the number of the video."""
    found = {
        index: folder.done(name_of(records, index), stamp_of(records, index), options.save_masks, options.pictures)
        for index in range(len(records))
    }
    return {index: result for index, result in found.items() if result is not None}


def name_of(records: Sequence[VideoRecord], index: int) -> str:
    """The name of a video, found without reading the video, because reading may fail."""
    if isinstance(records, VideoRecords):
        return records.names[index]
    try:
        return records[index].video_id
    except VIDEO_ERRORS:
        return f"video {index}"


def stamp_of(records: Sequence[VideoRecord], index: int) -> str:
    """A text that changes when a file of the video changes; empty if this cannot be determined."""
    try:
        return records[index : index + 1].stamp() if isinstance(records, VideoRecords) else ""
    except VIDEO_ERRORS:
        return ""


def _length(records: Sequence[VideoRecord], index: int) -> int:
    """Number of frames of a video; 0 if it cannot be read, because such a video takes little time."""
    try:
        return records[index].num_frames
    except VIDEO_ERRORS:
        return 0


# --------------------------------------------------------------------------------------------- what decides the numbers


def _deciding_settings(model: EfficientTamVideoModel, options: RunOptions) -> dict[str, Any]:
    """The settings on which scores depend, apart from the videos themselves."""
    settings = {
        "dataset": options.dataset,
        "prompt": options.prompt,
        "convention": options.convention,
        "max_frames": options.max_frames,
        **model_settings(model),
    }
    if options.memory:
        settings["memory"] = json.loads(json.dumps(options.memory))  # the form in which it is read from a file
    if options.groups is not None:
        settings["groups"] = hashlib.sha256(json.dumps(options.groups, sort_keys=True).encode()).hexdigest()[:16]
    return settings


def model_settings(model: PreTrainedModel) -> dict[str, Any]:
    """The settings of the model, and of the way it runs, on which scores depend."""
    return {
        "weights": _weights_digest(model),
        "image_size": list(size_pair(model.config.image_size)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "attention": getattr(model.config, "_attn_implementation", None),
    }


def _weights_digest(model: PreTrainedModel) -> str:
    """A text that changes when a weight or an option of a model changes."""
    options = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    return weights_sha256(model, json.dumps(options, sort_keys=True, default=str))[:16]


def surroundings(model: PreTrainedModel) -> dict[str, Any]:
    """Settings on which scores should not depend; they are stored for information."""
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else platform.processor()
    return {
        "device_name": device or platform.machine(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
