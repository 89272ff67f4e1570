"""The part of a video that a server works on: the first frames, or every n-th of them, scaled down.

A `Clip` only says which frames of which file, so it can be handed to another process; `open` gives the frames. The demo
and the HTTP service share this file. Files are decoded by PyAV in `video_io` and by nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..prompts import Prompts, prompts_as_json, scaled_prompts
from ..safe_names import safe_name
from ..video_io import FrameSource, open_video
from .finding import found_as_json, name_of
from .frames import limited_size, resize_image
from .results import ObjectName, TrackFolder


if TYPE_CHECKING:
    from ..discovery import FoundObject


SMALLEST_SIDE = 16  # pixels; nothing can be segmented in less


@dataclass(frozen=True)
class ClipLimits:
    """What is accepted of a video that a stranger uploaded.

    Attributes:
        max_frames: the number of frames that are used; later ones are left out.
        max_pixels: the pixels of a frame before it is scaled down.
        max_side: the longer side in pixels of frames and results if they are to be as large as the video.
    """

    max_frames: int
    max_pixels: int
    max_side: int


@dataclass(frozen=True)
class Clip:
    """A selection of the frames of a video file or a folder of images, numbered from 0.

    Attributes:
        path: the path of the file or the folder.
        name: the beginning of the names of result files; see `file_name`.
        original: (height, width) of the video.
        size: (height, width) of the clip's frames.
        fps: frames per second of the clip.
        stride: frame `i` of the clip is frame `i * stride` of the video.
        count: the number of frames of the clip.
        in_video: the number of frames of the video.
        shortfall: a sentence that says why the video has fewer frames than the file states; '' if it has not.
    """

    path: Path
    name: str
    original: tuple[int, int]
    size: tuple[int, int]
    fps: float
    stride: int
    count: int
    in_video: int
    shortfall: str = ""

    @contextmanager
    def open(self, read_ahead: int = 4) -> Iterator[ClipFrames]:
        """Open the frames, which have a length and give uint8 (height, width, 3) RGB when indexed.

        Args:
            read_ahead: the number of frames that are decoded ahead; without effect if frames are left out.

        Raises:
            VideoError: if the file cannot be opened.
        """
        with open_video(self.path, prefetch=read_ahead if self.stride == 1 else 0) as source:
            yield ClipFrames(self, source)

    def number(self, index: int) -> int:
        """Return the number in the video of a frame of the clip."""
        return index * self.stride

    def index(self, number: int) -> int:
        """Return the frame of the clip with a number in the video."""
        return number // self.stride


class ClipFrames:
    """The frames of an open clip, as a sequence of uint8 (height, width, 3) RGB."""

    def __init__(self, clip: Clip, source: FrameSource):
        self._clip, self._source = clip, source
        self.height, self.width = clip.size
        self.sound = source.sound

    def __len__(self) -> int:
        # A damaged file may have fewer frames than it states.
        return min(self._clip.count, -(-len(self._source) // self._clip.stride))

    def times(self, index: int) -> tuple[float, float]:
        """Return the begin and the end of a frame, in seconds of the video's clock."""
        begin = self._clip.number(index)
        end = min(begin + self._clip.stride, len(self._source))
        return self._source.frame_time(begin), self._source.frame_time(max(end, begin + 1))

    def __getitem__(self, index: int) -> np.ndarray:
        if index >= len(self):
            raise IndexError(f"Frame {index} is beyond the {len(self)} frames of this clip.")
        return resize_image(self._source[self._clip.number(index)], self._clip.size)


def clip_of_file(path: Path, limits: ClipLimits, max_side: int = 0, stride: int = 1) -> Clip:
    """Open an uploaded file or a folder of images, and choose the part of it that is used.

    Args:
        max_side: the longer side of the results in pixels; 0 for that of the video, within the limits.
        stride: 1 for every frame, n for every n-th.

    Raises:
        ValueError: if it is not a video that can be decoded, or its frames are larger than allowed. The message names
            files without their folders.
    """
    try:
        with open_video(path, prefetch=0, threads=1) as source:
            check_pixels(source.height, source.width, limits.max_pixels)
            source[0]
            size = (source.height, source.width)
            in_video, fps, shortfall = len(source), source.fps, source.shortfall
    except PictureSizeError:
        raise
    except (ValueError, OSError, IndexError) as error:
        raise ValueError(f"This file cannot be read as a video. {readable(error)}") from error
    name = file_name(path)
    max_side = max_side or limits.max_side
    count = min(-(-in_video // stride), limits.max_frames)
    return Clip(path, name, size, limited_size(size, max_side), fps / stride, stride, count, in_video, shortfall)


def write_clip_results(
    folder: TrackFolder,
    clip: Clip,
    prompts: Prompts,
    model_name: str,
    complete: bool,
    markers: bool = False,
    found: Iterable[FoundObject] = (),
) -> None:
    """Write the JSON file and the overlay of a tracked clip, as `efficienttam track` does.

    Args:
        folder: the folder that has the masks.
        prompts: prompts by frame of the clip, in pixels of its frames.
        model_name: the name of the model, for the JSON file.
        complete: whether tracking reached its end.
        markers: whether points and boxes are drawn in the overlay.
        found: the objects that were found instead of prompted; their sightings are in frames of the video and pixels of
            the clip. Their labels and scores are in the JSON file and on the overlay.
    """
    found = list(found)
    write_clip_json(folder, clip, prompts, model_name, complete, found)
    write_clip_overlay(folder, clip, prompts, markers, found)


def write_clip_json(
    folder: TrackFolder,
    clip: Clip,
    prompts: Prompts,
    model_name: str,
    complete: bool,
    found: Iterable[FoundObject] = (),
) -> None:
    """Write `masks.json` of a tracked clip; see `write_clip_results`."""
    height, width = clip.size
    in_video = {clip.number(t): on_frame for t, on_frame in prompts.items()}
    detected = {entry["id"]: entry for entry in found_as_json(found, 0, clip.size, clip.original)}
    objects = prompts_as_json(scaled_prompts(in_video, clip.size, clip.original))
    folder.write_json(
        {
            "video": {"name": clip.name, "width": width, "height": height, "fps": clip.fps},
            "prompt_size": {"width": clip.original[1], "height": clip.original[0]},
            "complete": complete,
            "model": model_name,
            "objects": [{**detected.get(one["id"], {}), **one} for one in objects],
        }
    )


def write_clip_overlay(
    folder: TrackFolder, clip: Clip, prompts: Prompts, markers: bool = False, found: Iterable[FoundObject] = ()
) -> None:
    """Write `overlay.mp4` of a tracked clip; see `write_clip_results`."""
    in_video = {clip.number(t): on_frame for t, on_frame in prompts.items()}
    names = {one.object_id: name_of(one) for one in found}
    ids = {object_id for on_frame in prompts.values() for object_id in on_frame}
    if names and len(ids) > 1:  # where some objects have names, the others are called by their ids
        names = {object_id: ObjectName(object_id, None, None) for object_id in sorted(ids)} | names
    with clip.open() as frames:
        folder.write_overlay(
            lambda number: frames[clip.index(number)],
            clip.size,
            clip.fps,
            in_video,
            folder.frames,
            lambda number: frames.times(clip.index(number)),
            frames.sound,
            show_prompts=markers,
            names=names or None,
        )


def file_name(path: Path) -> str:
    """The beginning of the names of files made from a file: its name without suffix, spaces and special characters."""
    return safe_name(re.sub(r"[^\w.-]+", "_", path.stem).strip("._")[:40] or "video")


class PictureSizeError(ValueError):
    """A picture is too large to be handled, or too small to see anything in."""


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Check the size of a picture.

    Raises:
        PictureSizeError: if it has more pixels than `max_pixels`, or a side below `SMALLEST_SIDE`.
    """
    if height * width > max_pixels:
        raise PictureSizeError(
            f"{width}x{height} pixels are {height * width / 1e6:.0f} megapixels; up to {max_pixels / 1e6:.0f} are "
            "accepted. Scale it down first."
        )
    if min(height, width) < SMALLEST_SIDE:
        raise PictureSizeError(f"{width}x{height} pixels are too few: at least 16 by 16 are needed.")


def readable(error: Exception) -> str:
    """An error's message with the names of files in place of their paths."""
    return re.sub(r"'[^']*/([^'/]+)'", r"'\1'", str(error))
