"""Finds problems of a dataset before a training run.

Of frames everything that names and headers tell is checked, at some tenth of a millisecond a file; a frame is decoded
only if its end is missing, which is how a download that broke off looks. Every mask is decoded once, at a few
milliseconds each, as only its pixels tell whether its values can be object ids.
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
    """What would stop a run on these videos, a message each; an empty list if nothing was found.

    Found are frames and masks that are missing, unreadable, cut short or of the wrong size, masks whose values cannot
    be object ids, masks without a frame, run lengths that do not fit, videos without any object, and annotations that
    are first masks only. Damage in the middle of a frame's file is not. Of the masks of a video the first that cannot
    be used is named, and the others are counted.

    Args:
        records: as :func:`.loading.load_records` gives them.
        max_videos: of more than these, so many, spread evenly over the dataset.
        max_problems: stop there.
    """
    count = min(len(records), max_videos)
    found = (problem for k in range(count) for problem in _problems(records, k * len(records) // count))
    return list(islice(found, max_problems))


def _problems(records: Sequence[VideoRecord], index: int) -> Iterator[str]:
    try:
        record = records[index]
        record.size  # noqa: B018 -- of the first frame, without which nothing can be compared
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
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter
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
    """What to try on each file of a video, in order; each raises DatasetError."""
    if isinstance(record.frames, ImageFrames):
        for index in range(record.num_frames):
            yield partial(_check_image, record, record.frames, index)
    else:  # a file that was cut short lacks its end
        yield partial(record.frame, min(max(record.annotated_frames, default=0), record.num_frames - 1))


def _check_image(record: VideoRecord, frames: ImageFrames, index: int) -> None:
    size = frames.checked_size(index)
    if size != record.size:
        raise DatasetError(
            f"{record.frames.name(index)} is {size[1]}x{size[0]} pixels, "
            f"but the video '{record.video_id}' is {record.size[1]}x{record.size[0]}."
        )


def _look_at_masks(record: VideoRecord, frame: int) -> bool | str:
    """Whether the masks of a frame show anything; if they cannot be used, why. From several threads at once."""
    try:
        if frame >= record.num_frames:
            raise DatasetError(
                f"The mask {record.masks_source.name(frame)} is of frame {frame}, but '{record.video_id}' has "
                f"{record.num_frames} frames, counted from 0."
            )
        return bool(record.masks_source.read(frame, record.size).masks)
    except DatasetError as error:
        return str(error)
