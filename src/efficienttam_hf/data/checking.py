"""Finds problems of a dataset before a training run.

Frames are checked by their names and headers, which takes about a tenth of a millisecond per file. A frame is decoded
only if the end of its file is missing, as after an interrupted download. Every mask is decoded once, in a few
milliseconds, because only its pixels show whether its values can be object ids.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

from .frames import ImageFrames
from .records import VideoRecord
from .schema import DatasetError


__all__ = ["check_dataset"]


def check_dataset(records: Sequence[VideoRecord], max_videos: int = 1000, max_problems: int = 20) -> list[str]:
    """List the problems that would stop a run on these videos, one message for each.

    The check finds frames and masks that are missing, unreadable, truncated or of the wrong size, masks whose values
    cannot be object ids, masks without a frame, invalid run lengths, videos without any object, and annotations with
    only the first masks. It does not find damage in the middle of a frame's file. A message names the first unusable
    mask of a video and counts the others.

    Args:
        records: the videos, see :func:`.loading.load_records`.
        max_videos: check at most this many videos, spread evenly over the dataset.
        max_problems: stop after this many problems.
    """
    count = min(len(records), max_videos)
    found = (problem for k in range(count) for problem in _problems(records, k * len(records) // count))
    return list(islice(found, max_problems))


def _problems(records: Sequence[VideoRecord], index: int) -> Iterator[str]:
    try:
        record = records[index]
        record.size  # noqa: B018 -- reads the first frame, to which the others are compared
    except DatasetError as error:
        yield str(error)
        return
    sound, has_object = True, False
    for check in _checks(record):
        try:
            check()
        except DatasetError as error:
            sound = False
            yield str(error)
    unusable: list[str] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter lock
        for found in pool.map(partial(_look_at_masks, record), record.annotated_frames):
            has_object = has_object or found is True
            unusable += [found] if isinstance(found, str) else []
    if unusable:
        others = f" Nor can {len(unusable) - 1} other masks of '{record.video_id}' be used." if unusable[1:] else ""
        yield unusable[0] + others
    elif sound and not has_object:
        yield f"The video '{record.video_id}' of {record.source} has no object: its masks are background only."
    if not record.complete:
        yield (
            f"The masks of '{record.video_id}' are first masks only ({record.source}, {record.split}): "
            "they prompt a tracker, but cannot train or score one."
        )


def _checks(record: VideoRecord) -> Iterator[Callable[[], Any]]:
    """Yield the checks of a video's files, in order; each raises DatasetError if the file has a problem."""
    if isinstance(record.frames, ImageFrames):
        for index in range(record.num_frames):
            yield partial(_check_image, record, record.frames, index)
    else:  # the end of a truncated file is missing
        yield partial(record.frame, min(max(record.annotated_frames, default=0), record.num_frames - 1))


def _check_image(record: VideoRecord, frames: ImageFrames, index: int) -> None:
    size = frames.checked_size(index)
    if size != record.size:
        raise DatasetError(
            f"{record.frames.name(index)} is {size[1]}x{size[0]} pixels, "
            f"but the video '{record.video_id}' is {record.size[1]}x{record.size[0]}."
        )


def _look_at_masks(record: VideoRecord, frame: int) -> bool | str:
    """Return whether a frame's masks show any object, or a message if they are unusable. Runs in several threads."""
    try:
        if frame >= record.num_frames:
            raise DatasetError(
                f"The mask {record.masks_source.name(frame)} is of frame {frame}, but '{record.video_id}' has "
                f"{record.num_frames} frames, counted from 0."
            )
        return bool(record.masks_source.read(frame, record.size).masks)
    except DatasetError as error:
        return str(error)
