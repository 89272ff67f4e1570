"""Frames out: videos that browsers play, with the colours that were given, whole or not there at all."""

from __future__ import annotations

import math
import os
import warnings
import weakref
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ._media import VideoError, import_av
from .atomic_file import temporary_beside


if TYPE_CHECKING:
    from typing import Self


__all__ = ["VideoWriter"]

BT709 = 1  # colour matrix, as FFmpeg numbers them


class VideoWriter:
    """Writes frames as an H.264 MP4 that browsers play (yuv420p, BT.709, index at the front).

    The file appears at ``path`` when the writer is closed, whole: until then it has a hidden temporary name in the same
    folder, and an error inside the ``with`` block removes it. Ctrl-C is not treated as an error: what was written so
    far is kept, playable.

    Odd heights and widths, which H.264 in yuv420p does not have, grow by one row or column that repeats the last one.

    Args:
        path: Ends in ``.mp4``, ``.m4v`` or ``.mov``. Missing folders are created; an existing file is replaced on
            closing.
        fps: Frames per second, constant.
        width: Of the frames, in pixels.
        height: Of the frames, in pixels.
        crf: Quality of libx264, 0 (lossless) to 51; 18 is visually near-lossless. Other encoders get a matching bit
            rate.

    Raises:
        ImportError: PyAV is not installed.
        VideoError: another suffix, or size, rate or quality that no video can have.
    """

    def __init__(self, path: str | os.PathLike, fps: float, width: int, height: int, *, crf: int = 20) -> None:
        av = import_av()
        self._path = Path(path)
        if self._path.suffix.lower() not in (".mp4", ".m4v", ".mov"):
            raise VideoError(f"Videos are written as MP4: '{path}' must end in .mp4, .m4v or .mov.")
        if not (fps > 0 and math.isfinite(fps)):
            raise VideoError(f"fps must be a positive number, got {fps}.")
        if not (1 <= width <= 16384 and 1 <= height <= 16384):
            raise VideoError(f"Width and height must be between 1 and 16384 pixels, got {width}x{height}.")
        if not 0 <= crf <= 51:
            raise VideoError(f"crf must be between 0 (lossless) and 51, got {crf}.")
        self.width, self.height = width, height
        self.frames_written = 0
        self._av = av
        codec = _h264_encoder(av)
        rate = Fraction(fps).limit_denominator(1001)
        options = {"crf": str(crf), "preset": "veryfast"} if codec == "libx264" else {}
        self._temporary = temporary_beside(self._path)
        self._container = av.open(str(self._temporary), "w", format="mp4", options={"movflags": "+faststart"})
        # The half-written file goes when the writer is dropped unclosed or the process ends.
        self._finalizer = weakref.finalize(self, self._temporary.unlink, missing_ok=True)
        self._stream = self._container.add_stream(codec, rate=rate, options=options)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        if codec != "libx264":
            self._stream.bit_rate = int(width * height * float(rate) * 0.2 * 2 ** ((20 - crf) / 6))
        # Without these a player guesses the matrix by the size of the picture, and masks change their colour.
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1  # limited
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._time_base = 1 / rate

    def write(self, frame: np.ndarray) -> None:
        """Append a frame: uint8 ``(height, width, 3)`` RGB.

        Raises:
            VideoError: another shape or dtype, or the writer is closed.
        """
        if self._container is None:
            raise VideoError(f"The writer of '{self._path}' is closed; open a new one to write more frames.")
        frame = np.asarray(frame)
        expected = (self.height, self.width, 3)
        if frame.dtype != np.uint8 or frame.shape != expected:
            raise VideoError(
                f"Frame {self.frames_written} for '{self._path}' is {frame.dtype} {frame.shape}; "
                f"uint8 {expected} RGB is accepted."
            )
        if self.height % 2 or self.width % 2:
            frame = np.pad(frame, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = self._reformatter.reformat(picture, format="yuv420p", dst_colorspace=BT709, dst_color_range=1)
        picture.pts, picture.time_base = self.frames_written, self._time_base
        self._container.mux(self._stream.encode(picture))
        self.frames_written += 1

    def close(self) -> None:
        """Finish the video and move it to its place.

        If no frame was written there is no video: nothing is left, and a warning says so.
        """
        if self._container is None:
            return
        if self.frames_written == 0:
            self.abort()
            warnings.warn(
                f"No frame was written to '{self._path}', so there is no video.", RuntimeWarning, stacklevel=2
            )
            return
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            os.replace(self._temporary, self._path)
        except BaseException:
            self.abort()
            raise
        self._container = None
        self._finalizer.detach()

    def abort(self) -> None:
        """Give up: nothing is left of this video, and a file that was at its place before stays as it was."""
        if self._container is not None:
            container, self._container = self._container, None
            try:
                container.close()
            finally:
                self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.abort()
        else:
            self.close()


def _h264_encoder(av: ModuleType) -> str:
    for codec in ("libx264", "libopenh264"):
        try:
            av.codec.Codec(codec, "w")
        except av.error.FFmpegError:
            continue
        except ValueError:  # av.codec.codec.UnknownCodecError
            continue
        return codec
    warnings.warn(
        "This PyAV has no H.264 encoder, so the video is written as MPEG-4 Part 2, which browsers do not play. "
        "The wheels of PyAV on PyPI have one: pip install --force-reinstall av.",
        RuntimeWarning,
        stacklevel=3,
    )
    return "mpeg4"
