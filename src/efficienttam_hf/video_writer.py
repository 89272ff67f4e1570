"""Writes videos that browsers play, and videos with an alpha channel, atomically and with exact colours.

A copy of a video's frames, such as one with masks drawn on it, has the length and the sound of the video: frames are
written with their times, and the sound of a file is copied (:mod:`._sound`).
"""

from __future__ import annotations

import math
import os
import warnings
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ._media import VideoError, import_av, local_address
from ._sound import NoSound, SoundTrack
from ._video_encoding import Encoding, choose_encoding
from .atomic_file import temporary_beside


if TYPE_CHECKING:
    from typing import Self


__all__ = ["VideoWriter"]

BT709 = 1  # FFmpeg's number of the colour matrix
TICKS = 10_000  # the smallest number of ticks per second, for frames that are not evenly spaced


class VideoWriter:
    """Writes frames as an H.264 MP4 that browsers play (yuv420p, BT.709, index at the front), or with an alpha channel.

    The file appears at ``path``, complete, when the writer is closed. Until then it has a hidden temporary name in the
    same folder, and an error inside the ``with`` block removes it. Ctrl-C is not treated as an error: the frames so far
    are kept in a playable file.

    H.264 in yuv420p has no odd heights and widths. Such frames get one more row or column, which repeats the last one;
    so it is with VP9.

    Args:
        path: the path of the file, which ends in ``.mp4``, ``.m4v`` or ``.mov``; with alpha, in ``.mov`` (ProRes 4444)
            or ``.webm`` (VP9). Missing folders are created, and an existing file is replaced when the writer is closed.
        fps: frames per second; the average if frames are written with their times.
        width: the width of the frames in pixels.
        height: the height of the frames in pixels.
        crf: the quality of libx264, from 0 (lossless) to 51; 18 is visually near-lossless. Other encoders get a
            corresponding quality or bit rate; ProRes has its own.
        audio_from: a file whose sound is copied, from the time of the first frame to the end of the last, on that
            file's clock; :attr:`FrameSource.sound <efficienttam_hf.video_io.FrameSource>` is such a file. If it has no
            sound, the video has none. If its sound cannot be copied, the video has none and there is a warning.
        alpha: whether frames have an alpha channel, which is not premultiplied.

    Raises:
        ImportError: if PyAV is not installed.
        VideoError: if the suffix, the size, the rate or the quality is not accepted, or PyAV has no encoder for a video
            with alpha.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float,
        width: int,
        height: int,
        *,
        crf: int = 20,
        audio_from: str | os.PathLike | None = None,
        alpha: bool = False,
    ) -> None:
        av = import_av()
        self._path = Path(path)
        if not 1e-6 <= fps <= 1e6:
            raise VideoError(
                f"fps must be a positive number, from one frame in 12 days to a million a second, got {fps}."
            )
        if not (1 <= width <= 16384 and 1 <= height <= 16384):
            raise VideoError(f"Width and height must be between 1 and 16384 pixels, got {width}x{height}.")
        if not 0 <= crf <= 51:
            raise VideoError(f"crf must be between 0 (lossless) and 51, got {crf}.")
        self.width, self.height = width, height
        self.frames_written = 0
        self._av = av
        encoding = self._encoding = choose_encoding(self._path, alpha, crf)
        rate = Fraction(fps).limit_denominator(1001) if fps >= 1 else 1 / Fraction(1 / fps).limit_denominator(1001)
        self._temporary = temporary_beside(self._path)
        self._sound: SoundTrack | None = None
        self._audio_from = None if audio_from is None else Path(audio_from)
        # The unfinished file is removed if the writer is dropped without closing or the process ends.
        self._finalizer = weakref.finalize(self, self._temporary.unlink, missing_ok=True)
        # In these ticks, frames at the constant rate have whole times, and others nearly. MP4 stores the length of a
        # frame and the amount by which it is reordered in 31 bits.
        finer = max(1, min(-(-TICKS // rate.numerator), int(2**28 * rate / rate.numerator)))
        self._time_base = Fraction(1, rate.numerator * finer)
        self._ticks_per_frame = rate.denominator * finer
        muxing = dict(encoding.muxing)
        if encoding.container in ("mp4", "mov"):
            muxing["video_track_timescale"] = str(self._time_base.denominator)
        self._container = av.open(local_address(self._temporary), "w", format=encoding.container, options=muxing)
        try:
            self._add_video(encoding, rate, crf)
        except BaseException:
            self.abort()
            raise

    def _add_video(self, encoding: Encoding, rate: Fraction, crf: int) -> None:
        """Add the video stream to the container."""
        width, height = self.width, self.height
        self._stream = self._container.add_stream(encoding.codec, rate=rate, options=encoding.options)
        self._padding = (height % 2, width % 2) if encoding.even else (0, 0)
        self._stream.width, self._stream.height = width + self._padding[1], height + self._padding[0]
        self._stream.pix_fmt = encoding.pixel_format
        self._stream.metadata.update(encoding.metadata)
        if encoding.codec == "libvpx-vp9":
            self._stream.bit_rate = 0  # the quality alone decides
        elif encoding.codec not in ("libx264", "prores_ks"):
            self._stream.bit_rate = int(width * height * float(rate) * 0.2 * 2 ** ((20 - crf) / 6))
        # Without these, a player guesses the colour matrix from the size, and the colours of masks change.
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1  # the limited range
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        context.time_base = self._time_base
        self._last_tick, self._end_tick = -1, 0
        self._lengths: dict[int, int] = {}  # of frames that are still in the encoder, by their tick
        self._first_time: float | None = None

    def write(self, frame: np.ndarray, time: float | None = None, until: float | None = None) -> None:
        """Append a frame.

        Args:
            frame: uint8 ``(height, width, 3)`` RGB, or ``(height, width, 4)`` RGBA if the video has an alpha channel.
            time: the time at which the frame is shown, in seconds; the video begins at the time of the first frame.
                With None, the frame follows the one before it at the constant rate. It is given for all frames or for
                none.
            until: the end of the frame in seconds, for the last frame; None is one frame later at the constant rate.

        Raises:
            VideoError: if the shape or dtype is another one, a time is given for some frames only, or the writer is
                closed.
        """
        if self._container is None:
            raise VideoError(f"The writer of '{self._path}' is closed; open a new one to write more frames.")
        frame = np.asarray(frame)
        encoding = self._encoding
        expected = (self.height, self.width, encoding.channels)
        if frame.dtype != np.uint8 or frame.shape != expected:
            raise VideoError(
                f"Frame {self.frames_written} for '{self._path}' is {frame.dtype} {frame.shape}; "
                f"uint8 {expected} {'RGBA' if encoding.channels == 4 else 'RGB'} is accepted."
            )
        tick, end = self._place(time, until)
        if self.frames_written == 0 and self._audio_from is not None:
            self._attempt_sound(self._open_sound)
        if any(self._padding):
            frame = np.pad(frame, ((0, self._padding[0]), (0, self._padding[1]), (0, 0)), mode="edge")
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=encoding.frame_format)
        picture = self._reformatter.reformat(
            picture, format=encoding.pixel_format, dst_colorspace=BT709, dst_color_range=1
        )
        picture.pts, picture.time_base = tick, self._time_base
        self._lengths[tick] = end - tick
        self._mux(self._stream.encode(picture))
        self._last_tick, self._end_tick = tick, end
        self.frames_written += 1
        if (sound := self._sound) is not None:
            self._attempt_sound(lambda: sound.write_until(float(tick * self._time_base)))

    def _mux(self, packets: list[Any]) -> None:
        """Write encoded packets with the lengths of their frames."""
        for packet in packets:  # encoders state the nominal length of a frame, which the last one keeps
            packet.duration = self._lengths.pop(packet.pts, packet.duration)
            self._container.mux(packet)

    def _place(self, time: float | None, until: float | None) -> tuple[int, int]:
        """Return the begin and the end of the next frame in ticks."""
        if self.frames_written == 0:
            self._first_time = time
            if time is not None and self._encoding.reorders:
                # MP4 stores lengths in the order of decoding. If frames are reordered and not evenly spaced, these are
                # not the lengths for which they are shown.
                context = self._stream.codec_context
                context.options = {**context.options, "bf": "0"}
        elif (time is None) != (self._first_time is None):
            raise VideoError(f"Frame {self.frames_written} for '{self._path}': give the time of all frames or of none.")
        if time is None or self._first_time is None:
            tick = self.frames_written * self._ticks_per_frame
            return tick, tick + self._ticks_per_frame
        if not math.isfinite(time):
            raise VideoError(f"The time of frame {self.frames_written} for '{self._path}' must be finite, got {time}.")
        tick = max(round((time - self._first_time) / self._time_base), self._last_tick + 1)
        end = tick + self._ticks_per_frame if until is None else round((until - self._first_time) / self._time_base)
        return tick, max(end, tick + 1)

    def _open_sound(self) -> None:
        """Open the sound at the time of the first frame."""
        assert self._audio_from is not None  # only called with a file
        self._sound = SoundTrack(self._audio_from, self._container, self._first_time or 0.0)

    def _attempt_sound(self, act: Callable[[], None]) -> None:
        """Do something with the sound. If it fails, a warning is given and the video continues without sound."""
        try:
            act()
        except (NoSound, VideoError, OSError, ValueError, self._av.error.FFmpegError) as error:
            self._close_sound()
            if reason := " ".join(str(error).split()):
                warnings.warn(
                    f"The sound of '{self._audio_from}' is not kept in '{self._path}': {reason}.",
                    RuntimeWarning,
                    stacklevel=4,
                )

    def _close_sound(self) -> None:
        """Close the sound, if there is one."""
        if self._sound is not None:
            sound, self._sound = self._sound, None
            sound.close()

    def close(self) -> None:
        """Finish the video and move it to its path.

        If no frame was written, there is no video: nothing is left, and a warning says so.
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
            self._mux(self._stream.encode(None))
            if (sound := self._sound) is not None:
                self._attempt_sound(lambda: sound.finish(float(self._end_tick * self._time_base)))
                self._close_sound()
            self._container.close()
            os.replace(self._temporary, self._path)
        except BaseException:
            self.abort()
            raise
        self._container = None
        self._finalizer.detach()

    def abort(self) -> None:
        """Discard the video. Nothing of it is left, and an earlier file at its path is unchanged."""
        if self._container is not None:
            container, self._container = self._container, None
            try:
                self._close_sound()
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
