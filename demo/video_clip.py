"""The part of a video that a visitor works on: the first frames, or every n-th of them, scaled down.

A `Clip` only states which frames of which file are used, so it can be passed to another process; `open` gives the
frames. `efficienttam_hf.video_io` decodes the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from settings import Settings
from uploads import UserError

from efficienttam_hf.app.frames import limited_size, resize_image
from efficienttam_hf.safe_names import safe_name
from efficienttam_hf.video_io import FrameSource, open_video


@dataclass(frozen=True)
class Clip:
    """A selection of the frames of a video file, numbered from 0.

    Attributes:
        path: the path of the file.
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


def clip_of_file(path: Path, settings: Settings, max_side: int, stride: int) -> Clip:
    """Open an uploaded file and decide which part of it is used.

    Args:
        path: the path of the file.
        settings: the settings of the demo, with the limits.
        max_side: the longer side of the results in pixels; 0 is that of the video, within the settings' limit.
        stride: take every n-th frame; 1 takes all.

    Raises:
        UserError: if the file is not a video that can be decoded, or its frames are larger or smaller than allowed.
    """
    try:
        with open_video(path, prefetch=0, threads=1) as source:
            check_pixels(source.height, source.width, settings)
            source[0]
            size = (source.height, source.width)
            in_video, fps, shortfall = len(source), source.fps, source.shortfall
    except (ValueError, OSError, IndexError) as error:
        raise UserError(f"This file cannot be read as a video. {readable(error)}") from error
    name = file_name(path)
    max_side = max_side or settings.max_result_side
    count = min(-(-in_video // stride), settings.max_frames)
    return Clip(path, name, size, limited_size(size, max_side), fps / stride, stride, count, in_video, shortfall)


def file_name(path: Path) -> str:
    """Return the beginning of the names of result files: the file's name without suffix and special characters."""
    return safe_name(re.sub(r"[^\w.-]+", "_", path.stem).strip("._")[:40] or "video")


def check_pixels(height: int, width: int, settings: Settings) -> None:
    """Check the size of an image.

    Raises:
        UserError: if it has more than `settings.max_pixels` pixels, or a side of less than 16 pixels.
    """
    if height * width > settings.max_pixels:
        limit = settings.max_pixels / 1e6
        raise UserError(
            f"{width}x{height} pixels are {height * width / 1e6:.0f} megapixels; up to {limit:.0f} are accepted. "
            "Scale it down first."
        )
    if min(height, width) < 16:
        raise UserError(f"{width}x{height} pixels are too few: at least 16 by 16 are needed.")


def readable(error: Exception) -> str:
    """Return an error's message with file names instead of full paths."""
    return re.sub(r"'[^']*/([^'/]+)'", r"'\1'", str(error))
