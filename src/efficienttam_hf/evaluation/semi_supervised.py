"""Semi-supervised video object segmentation: each object is prompted once, on its first frame, and then tracked.

Frames are streamed through a session: one after another, each decoded, tracked, handed over to be scored or saved, and
let go, so that memory does not grow with the video. A stream also is what the task means for objects that appear late:
before its first frame nobody knows of an object, and no memory of it exists. Objects do not look at each other, so this
is the same as tracking each in a run of its own, as SAM 2 does for LVOS and YouTube-VOS.

Where frames come from, and what becomes of the masks, is left to the caller: `runner` does it for datasets.
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
from .tracker import TrackingModel, TrackingProcessor, evaluating, masks_of, start_session


__all__ = ["AnnotatedFrame", "TrackedFrame", "frames_of", "has_hidden_truth", "track"]

READ_AHEAD = 3  # frames: enough to hide decoding, few enough not to matter

T = TypeVar("T")
R = TypeVar("R")


class AnnotatedFrame(NamedTuple):
    """A frame and what is known of it.

    Attributes:
        frame: uint8 (height, width, 3), RGB.
        truth: for each object id its mask, bool (height, width); an object that is not named, or whose mask is empty,
            is not in the frame. `None` for a frame that was not annotated.
        void: pixels that nobody judged, bool (height, width); `None` if there are none.
    """

    frame: np.ndarray
    truth: Mapping[int, np.ndarray] | None = None
    void: np.ndarray | None = None


@dataclass
class TrackedFrame:
    """A frame, what is known of it and what the tracker says.

    Attributes:
        index: of the frame in the video, from 0.
        frame, truth, void: as in :class:`AnnotatedFrame`.
        predicted: for each object prompted so far its tracked mask, bool (height, width).
        seconds: from the frame to these masks, prompts included.
    """

    index: int
    frame: np.ndarray
    truth: Mapping[int, np.ndarray] | None
    void: np.ndarray | None
    predicted: dict[int, np.ndarray]
    seconds: float


def has_hidden_truth(record: VideoRecord) -> bool:
    """Whether a video shows each object where it appears first and nowhere else, so that it cannot be scored here."""
    return not record.complete or len(record.annotated_frames) < 2


def frames_of(record: VideoRecord, max_frames: int | None = None) -> Generator[AnnotatedFrame, None, None]:
    """The frames of a video, from the first to the last that is judged, or to the end where the truth is hidden.

    Frames between annotated ones come too: a tracker that sees few frames a second tracks another video. A thread reads
    ahead.

    Raises:
        DatasetError: a frame or a mask is missing, damaged or of another size.
    """
    annotated = set(record.annotated_frames)
    count = record.num_frames if has_hidden_truth(record) else max(annotated) + 1

    def read(index: int) -> AnnotatedFrame:
        if index not in annotated:
            return AnnotatedFrame(record.frame(index))
        return AnnotatedFrame(record.frame(index), record.masks(index), record.void(index))

    return _read_ahead(range(count if max_frames is None else min(count, max_frames)), read)


def _read_ahead(items: Iterable[T], read: Callable[[T], R]) -> Generator[R, None, None]:
    """`map(read, items)`, on a thread that is a few items ahead. An error comes where its item would."""
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
        model: what tracks, see `tracker`. A torch model is evaluated in evaluation mode, and left in the mode it was
            in; it runs on its own device, in its own dtype.
        processor: that of the model.
        video: its frames in order, all of one size: :class:`AnnotatedFrame` or tuples of its fields.
        prompt: what is shown of an object; see `prompted`.
        overlap: whether a pixel may belong to several objects, as in SA-V; otherwise it goes to the most certain.
        memory: how memories are chosen, as options of `init_video_session`; by default as the model's configuration
            says.

    Yields:
        Every frame, as it is done. Before the first object appears nothing is predicted.

    Raises:
        ValueError: another `prompt`, or frames and masks that do not fit each other.
        ImportError: OpenCV is not installed.
    """
    check_prompt(prompt)
    session = start_session(model, processor, memory)
    with evaluating(model):
        for index, entry in enumerate(video):
            frame, truth, void = AnnotatedFrame(*entry)
            known = session.objects
            new = {i: mask for i, mask in (truth or {}).items() if i not in known and mask.any()}
            predicted: dict[int, np.ndarray] = {}
            start = time.perf_counter()
            if new or known:
                session.add_new_frame(frame, index)
            if new:
                prompt_objects(model, processor, session, index, new, prompt)
            if known:
                output = model.track_frame(session, index)
                predicted = dict(masks_of(processor, output, frame.shape[:2], overlap))
            yield TrackedFrame(index, frame, truth, void, predicted, time.perf_counter() - start)
