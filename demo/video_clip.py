"""Clips of visitors' videos (`efficienttam_hf.app.clips`) within the demo's limits, with refusals for the visitor."""

from __future__ import annotations

from pathlib import Path

from settings import Settings
from uploads import UserError

from efficienttam_hf.app import clips
from efficienttam_hf.app.clips import Clip, ClipFrames, file_name, readable


__all__ = ["Clip", "ClipFrames", "check_pixels", "clip_of_file", "file_name", "readable"]


def clip_of_file(path: Path, settings: Settings, max_side: int, stride: int) -> Clip:
    """Open an uploaded file and decide which part of it is used; see `clips.clip_of_file`.

    Raises:
        UserError: if it is not a video that can be decoded, or its frames are larger than allowed.
    """
    limits = clips.ClipLimits(settings.max_frames, settings.max_pixels, settings.max_result_side)
    try:
        return clips.clip_of_file(path, limits, max_side, stride)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_pixels(height: int, width: int, settings: Settings) -> None:
    """Check the size of an image.

    Raises:
        UserError: if it has more than `settings.max_pixels` pixels, or a side of less than 16 pixels.
    """
    try:
        clips.check_pixels(height, width, settings.max_pixels)
    except clips.PictureSizeError as error:
        raise UserError(str(error)) from error
