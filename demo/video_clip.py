"""The part of a video that a visitor works on: the first frames, or every second of them, scaled down.

A `Clip` only says which frames of which file, so it can be handed to another process; `open` gives the frames. Files
are decoded by PyAV in `efficienttam_hf.video_io` and by nothing else.
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
    """Some frames of a video file, counted from 0.

    Attributes:
        path: the file.
        name: for names of files, see `file_name`.
        original: (height, width) of the video.
        size: (height, width) of the frames as given here.
        fps: frames per second as given here.
        stride: frame `i` here is frame `i * stride` of the video.
        count: how many frames.
        in_video: how many frames the video has.
        shortfall: why these are fewer than the file states, in a sentence; '' if they are not.
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
        """The frames: `len`, and indexing that gives uint8 (height, width, 3) RGB."""
        with open_video(self.path, prefetch=read_ahead if self.stride == 1 else 0) as source:
            yield ClipFrames(self, source)

    def number(self, index: int) -> int:
        """The number in the video of a frame here."""
        return index * self.stride

    def index(self, number: int) -> int:
        """The frame here with that number in the video."""
        return number // self.stride


class ClipFrames:
    """Frames of an open clip."""

    def __init__(self, clip: Clip, source: FrameSource):
        self._clip, self._source = clip, source
        self.height, self.width = clip.size
        self.sound = source.sound

    def __len__(self) -> int:
        # A damaged file turns out shorter than it says.
        return min(self._clip.count, -(-len(self._source) // self._clip.stride))

    def times(self, index: int) -> tuple[float, float]:
        """When a frame begins and ends, in seconds on the video's clock."""
        begin = self._clip.number(index)
        end = min(begin + self._clip.stride, len(self._source))
        return self._source.frame_time(begin), self._source.frame_time(max(end, begin + 1))

    def __getitem__(self, index: int) -> np.ndarray:
        if index >= len(self):
            raise IndexError(f"Frame {index} is beyond the {len(self)} frames of this clip.")
        return resize_image(self._source[self._clip.number(index)], self._clip.size)


def clip_of_file(path: Path, settings: Settings, max_side: int, stride: int) -> Clip:
    """Look at an uploaded file and say which part of it is used.

    Args:
        max_side: longer side of the results in pixels; 0 for that of the video, within the settings' limit.

    Raises:
        UserError: if it is not a video that can be decoded, or its frames are larger than allowed.
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
    """What files made from this one begin with: its name without suffix; no spaces, nothing that a shell minds."""
    return safe_name(re.sub(r"[^\w.-]+", "_", path.stem).strip("._")[:40] or "video")


def check_pixels(height: int, width: int, settings: Settings) -> None:
    """Raise `UserError` for a picture that is too large to handle, or too small to see anything in."""
    if height * width > settings.max_pixels:
        limit = settings.max_pixels / 1e6
        raise UserError(
            f"{width}x{height} pixels are {height * width / 1e6:.0f} megapixels; up to {limit:.0f} are accepted. "
            "Scale it down first."
        )
    if min(height, width) < 16:
        raise UserError(f"{width}x{height} pixels are too few: at least 16 by 16 are needed.")


def readable(error: Exception) -> str:
    """An error's message with the names of files in place of where they lie."""
    return re.sub(r"'[^']*/([^'/]+)'", r"'\1'", str(error))
