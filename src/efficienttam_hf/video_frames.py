"""Converts every supported video argument (a path, a list of images, an array, an object with indexing) to frames.

The torch processor and the ONNX tracker read videos with this file, which needs no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .images import image_size, is_array


def as_frames(video: Any) -> Any:
    """Convert a video that a user passes to an object with `len` and indexing."""
    if isinstance(video, str | Path):
        return _open(video)
    if isinstance(video, list | tuple) and len(video) == 1 and isinstance(video[0], list | tuple):
        video = video[0]
    if is_array(video) and video.ndim == 5 and len(video) == 1:
        video = video[0]
    if is_array(video) and video.ndim != 4:
        raise ValueError(
            "An array of frames must have four dimensions, (frames, height, width, 3) or (frames, 3, height, width), "
            f"got shape {tuple(video.shape)}."
        )
    if not (hasattr(video, "__len__") and hasattr(video, "__getitem__")):
        raise ValueError(
            f"A video must be a path, a list of frames, an array, or an object with `len` and indexing, got "
            f"{type(video).__name__}. For a stream, start the session without a video and give each frame to the model "
            "as `frame`."
        )
    return video


def _open(path: str | Path) -> Any:
    try:
        # The module is imported by its full name, because this file also runs as remote code outside the package.
        open_video: Callable = importlib.import_module("efficienttam_hf.video_io").open_video
    except ImportError:
        from transformers.video_utils import load_video

        return load_video(str(path))[0]  # type: ignore[arg-type]  # the hint lacks paths, which are documented
    return open_video(path)


def frame_size(frames: Any) -> tuple[int, int]:
    """(height, width) of the frames of a video. Frames are decoded only if the size is not known without this."""
    if len(frames) == 0:
        raise ValueError(
            "The video has no frames: give at least one, or start the session without a video for a stream."
        )
    if hasattr(frames, "height") and hasattr(frames, "width"):
        return int(frames.height), int(frames.width)
    if not isinstance(frames, list | tuple):
        return image_size(frames[0])
    sizes = []
    for i, frame in enumerate(frames):
        try:
            sizes.append(image_size(frame))
        except ValueError as error:
            raise ValueError(f"Frame {i} is not an image: {error}") from error
        if sizes[i] != sizes[0]:
            (height, width), (first_height, first_width) = sizes[i], sizes[0]
            raise ValueError(
                f"All frames of a video must have one size, but frame {i} is {width}x{height} pixels and frame 0 is "
                f"{first_width}x{first_height}: resize them first."
            )
    return sizes[0]
