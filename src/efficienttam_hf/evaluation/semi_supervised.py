"""Semi-supervised video object segmentation: each object is prompted once, on its first frame, and then tracked.

Frames are streamed through a session: each frame is decoded, tracked, passed on to be scored or saved, and then
dropped, so that RAM use does not grow with the video. A stream also fits the task for objects that appear late: before
an object's first frame, it is unknown and has no memory. Objects are independent of each other, so the result is the
same as that of a separate run for each object, as in SAM 2 for LVOS and YouTube-VOS.

The caller provides the frames and uses the masks; `runner` does this for datasets.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from ..data.records import VideoRecord
from .prompted import Prompt, check_prompt, prompt_objects
from .tracker import (
    ReportedScores,
    TrackingModel,
    TrackingProcessor,
    evaluating,
    masks_of,
    scores_of,
    start_session,
)


__all__ = ["AnnotatedFrame", "TrackedFrame", "frames_of", "has_hidden_truth", "track"]

READ_AHEAD = 3  # number of frames: enough to hide the time of decoding, and little RAM

T = TypeVar("T")
R = TypeVar("R")


class AnnotatedFrame(NamedTuple):
    """A frame and its annotation.

    Attributes:
        frame: uint8 (height, width, 3), RGB.
        truth: annotated masks, bool (height, width), by object id. An object without a mask, or with an empty one, is
            not in the frame. `None` for a frame that was not annotated.
        void: pixels that are not annotated, bool (height, width); `None` if there are none.
    """

    frame: np.ndarray
    truth: Mapping[int, np.ndarray] | None = None
    void: np.ndarray | None = None


@dataclass
class TrackedFrame:
    """A frame, its annotation and its tracked masks.

    Attributes:
        index: the number of the frame in the video, from 0.
        frame, truth, void: see :class:`AnnotatedFrame`.
        predicted: tracked masks, bool (height, width), by the ids of all objects prompted so far.
        scores: what the tracker reports of them, by object id; empty if it reports nothing.
        seconds: time from the frame to these masks, including prompts.
    """

    index: int
    frame: np.ndarray
    truth: Mapping[int, np.ndarray] | None
    void: np.ndarray | None
    predicted: dict[int, np.ndarray]
    scores: dict[int, ReportedScores]
    seconds: float


def has_hidden_truth(record: VideoRecord) -> bool:
    """Whether a video only has annotations on the first frame of each object, so that it cannot be scored here."""
    return not record.complete or len(record.annotated_frames) < 2


def frames_of(record: VideoRecord, max_frames: int | None = None) -> Generator[AnnotatedFrame, None, None]:
    """The frames of a video, from the first to the last annotated one, or to the end if the truth is hidden.

    Frames without annotation are included, because tracking depends on the frame rate. A thread reads ahead.

    Raises:
        DatasetError: if a frame or a mask is missing, damaged or of another size.
    """
    annotated = set(record.annotated_frames)
    count = record.num_frames if has_hidden_truth(record) else max(annotated) + 1

    def read(index: int) -> AnnotatedFrame:
        if index not in annotated:
            return AnnotatedFrame(record.frame(index))
        return AnnotatedFrame(record.frame(index), record.masks(index), record.void(index))

    return _read_ahead(range(count if max_frames is None else min(count, max_frames)), read)


def _read_ahead(items: Iterable[T], read: Callable[[T], R]) -> Generator[R, None, None]:
    """Run `map(read, items)` on a thread that is a few items ahead. An error is raised in place of its item."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@torch.inference_mode()
def track(
    model: TrackingModel,
    processor: TrackingProcessor,
    video: Iterable[AnnotatedFrame | tuple[Any, ...]],
    prompt: Prompt = "mask",
    overlap: bool = False,
    memory: Mapping[str, Any] | None = None,
) -> Iterator[TrackedFrame]:
    """Track each object of a video from the first frame in which it is annotated.

    Args:
        model: the tracker; see `tracker`. A torch model runs in evaluation mode, on its device and in its dtype, and is
            then returned to its previous mode.
        processor: the processor of the model.
        video: the frames in order, all of one size: :class:`AnnotatedFrame` or tuples of its fields.
        prompt: the prompt of each object; see `prompted`.
        overlap: whether a pixel may belong to several objects, as in SA-V; otherwise the object with the highest logit
            keeps it.
        memory: options of `init_video_session` for memory selection; by default, the model's configuration decides.

    Yields:
        Every frame, when it is finished. Before the first object appears, there are no predictions.

    Raises:
        ValueError: if the `prompt` is unknown, or frames and masks do not fit each other.
        ImportError: if OpenCV is not installed.
    """
    check_prompt(prompt)
    session = start_session(model, processor, memory)
    with evaluating(model):
        for index, entry in enumerate(video):
            frame, truth, void = AnnotatedFrame(*entry)
            known = session.objects
            new = {i: mask for i, mask in (truth or {}).items() if i not in known and mask.any()}
            predicted: dict[int, np.ndarray] = {}
            scores: dict[int, ReportedScores] = {}
            start = time.perf_counter()
            if new or known:
                session.add_new_frame(frame, index)
            if new:
                prompt_objects(model, processor, session, index, new, prompt)
            if known:
                output = model.track_frame(session, index)
                predicted = dict(masks_of(processor, output, frame.shape[:2], overlap))
                scores = scores_of(output)
            yield TrackedFrame(index, frame, truth, void, predicted, scores, time.perf_counter() - start)
