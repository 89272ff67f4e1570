"""Reads frames from video files, folders of images and cameras.

A tracker reads a video once, usually forward, sometimes backward, and sometimes jumps to a frame that a user clicked.
It must neither wait for the decoder nor keep the video in RAM: a minute of 1080p takes 11 GB as RGB. So a
:class:`FrameSource` decodes the next frames in a background thread and drops them afterwards. The frames that it keeps
are bounded for videos of any length (see :func:`open_video`).

Frames are counted, independent of their times. Frame ``i`` is the ``i``-th picture that a decoder shows from the
beginning, whether it is reached by reading forward, backward or by a jump; see :mod:`._video_decoder`.

This file knows nothing of models. PyAV and OpenCV are imported where they are used.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ._media import MediaLimits, VideoError, check_regular_file
from ._video_decoder import HELD_BYTES, SKIP_RATHER_THAN_SEEK, Cancelled, VideoFile
from .frame_names import IMAGE_SUFFIXES, list_frames
from .image_io import AnimatedImage, ImageFiles, frame_count, is_supported, kind_of_file, open_image


if TYPE_CHECKING:
    from typing import Self


__all__ = ["CameraStream", "FrameSource", "MediaLimits", "VideoError", "open_camera", "open_video"]

DEFAULT_FPS = 24.0  # as in DAVIS and SA-V, for sources without a rate


class FrameSource(ABC):
    """A video as a sequence of frames: the output of :func:`open_video`, from which the rest of the package reads.

    ``len(source)`` is the number of frames, and ``source[i]`` is frame ``i`` as a new array, uint8 ``(height, width,
    3)`` RGB. Negative ``i`` counts from the end. Iteration yields the frames in order, and ``reversed(source)`` from
    the last to the first. Use it in a ``with`` statement, or call :meth:`close` at the end.

    Attributes:
        height: the height of the frames in pixels, after rotation.
        width: the width of the frames in pixels, after rotation.
        fps: frames per second: the average if the rate varies, 24 if the source has none.
        name: the file's name without its suffix, or the folder's name.
        sound: the file whose sound belongs to the frames, at the times of :meth:`frame_time`, for
            :class:`~efficienttam_hf.video_writer.VideoWriter`; None for images, and if the caller set another rate.
        shortfall: a sentence that says why there are fewer frames than the file states, with both numbers; '' if there
            are not.
    """

    height: int
    width: int
    fps: float
    name: str
    sound: Path | None = None
    shortfall: str = ""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray: ...

    def frame_name(self, index: int) -> str:
        """Return a frame's name for file names: its file's name without suffix, or its number as in ``00000``."""
        return f"{index:05d}"

    def frame_time(self, index: int) -> float:
        """Return the time at which frame ``index`` is shown, in seconds, for ``0`` to ``len(source)``.

        The time of ``len(source)`` is the end of the last frame. If the source has time stamps, they are used, so that
        a copy of the frames with these times has the same length and speed, whether the rate is constant or not.
        """
        return index / self.fps

    @abstractmethod
    def close(self) -> None:
        """Close files and threads. Afterwards, frames cannot be read. Further calls have no effect."""

    def __iter__(self) -> Iterator[np.ndarray]:
        index = 0
        while index < len(self):  # asked each time, because a damaged file may have fewer frames than it states
            try:
                frame = self[index]
            except IndexError:
                return
            yield frame
            index += 1

    def __reversed__(self) -> Iterator[np.ndarray]:
        for index in range(len(self) - 1, -1, -1):
            try:
                yield self[index]
            except IndexError:  # the end of a damaged file, which cannot be decoded
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_video(
    source: str | os.PathLike,
    *,
    start: int | None = None,
    end: int | None = None,
    prefetch: int = 4,
    window: int | None = None,
    threads: int = 0,
    fps: float | None = None,
    limits: MediaLimits | None = None,
) -> FrameSource:
    """Open a video file, an animated image or a folder of frames for reading, without loading it.

    The RAM for frames is bounded for videos of any length: at most ``prefetch + 1`` RGB frames ahead of the reader and,
    for video files, at most ``prefetch + 2`` decoded frames (about 1.5 bytes per pixel) behind it, or ``window`` of
    them while reading backward. To read backward, up to ``window`` frames are decoded forward at once and returned in
    reverse order; if the distance of keyframes is larger, a frame is decoded about ``distance / (2 * window)`` times.
    Of frames with more than about 30 megapixels, fewer are kept, so that neither kind takes more than about half a
    gigabyte.

    The kind of a file is determined by its content, not by its name. Files that refer to others (playlists, lists of
    images) are not opened. The rotation that phones store is applied. Non-square pixels are not resampled.

    A video that is cut short is read as far as it can be decoded: when that is known, ``len()`` shrinks, iteration ends
    there, reading beyond raises IndexError, and a warning states both numbers of frames. A frame in the middle that
    cannot be decoded is replaced by the one before it, with a warning, so that later frames keep their numbers.

    Args:
        source: a video file (MP4, MOV, WebM, MKV, AVI, MPEG, WMV, FLV, Ogg, DV, MXF and others), an animated GIF, PNG,
            WebP or AVIF, a TIFF whose pages are the frames, or a folder of JPEG or PNG frames numbered with a constant
            step (``00000.jpg``, ``00001.jpg``, or ``0.png``, ``5.png``, ``10.png``).
        start: the first frame to read, which becomes frame 0 of the source. None is the beginning.
        end: the frame to stop before. None is the end.
        prefetch: the number of frames that a background thread decodes ahead, in the direction of reading. With 0 there
            is no thread, and frames are decoded when they are read.
        window: the number of frames that are kept while reading backward. None is as many as fit in 128 MiB, from 8 to
            128.
        threads: the number of threads of the decoder. With 0, FFmpeg chooses it by the number of cores; use 1 if many
            videos are read at once.
        fps: the frame rate in place of the file's rate and time stamps. The default for folders, which have none, is
            24.
        limits: the limits of the video's size and length; None is :meth:`MediaLimits.from_environment`.

    Returns:
        A :class:`FrameSource`.

    Raises:
        FileNotFoundError: if there is nothing at ``source``.
        VideoError: if the file is empty, not a video, larger than ``limits``, or cannot be decoded; if the folder has
            no images, gaps in its numbering or images of several sizes; or if ``start`` or ``end`` are outside the
            video. Reading a frame raises it if the size of a video changes.
        ValueError, TypeError: if another argument is out of range, or ``source`` is not a path.
        ImportError: if a video file is given and PyAV is not installed.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"open_video takes the path of a video file or a folder of frames, got {type(source).__name__}."
        )
    for label, value, least in (("prefetch", prefetch, 0), ("window", window, 1), ("threads", threads, 0)):
        if value is not None and value < least:
            raise ValueError(f"{label} must be at least {least}, got {value}.")
    if fps is not None and not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"fps must be a positive number, got {fps}.")

    path = Path(source)
    limits = limits or MediaLimits.from_environment()
    decoder: ImageFiles | AnimatedImage | VideoFile
    if path.is_dir():
        decoder = ImageFiles(path, list_frames(path), limits)
    else:
        try:
            check_regular_file(path, "a video")
        except FileNotFoundError as error:
            hint = "; download it first, or read live sources with open_camera" if "://" in str(source) else ""
            raise FileNotFoundError(f"There is no video file or folder of frames at '{source}'{hint}.") from error
        decoder = _open_file(path, prefetch + 2, window, threads, limits)
    try:
        opened = _BufferedSource(path, decoder, start, end, prefetch, fps)
    except BaseException:
        decoder.close()
        raise
    opened._reopen = partial(
        open_video, path, start=start, end=end, prefetch=prefetch, window=window, threads=threads, fps=fps
    )
    return opened


def _open_file(
    path: Path, keep: int, window: int | None, threads: int, limits: MediaLimits
) -> ImageFiles | AnimatedImage | VideoFile:
    """Return the decoder for a file by its content: a single picture, an animated image, or a video."""
    kind = kind_of_file(path)
    motion_jpeg = kind == "JPEG" and path.suffix.lower() in (".mjpeg", ".mjpg")  # it begins as a JPEG image does
    if motion_jpeg or not (is_supported(kind) or path.suffix.lower() in IMAGE_SUFFIXES):
        return VideoFile(path, keep, window, threads, limits)
    with open_image(path, limits=limits) as image:
        count = frame_count(image, str(path))
        limits.check_length(path, image.width, image.height, count, animation=True)
    if kind in ("WEBP", "TIFF") and count > 1:
        return AnimatedImage(path, keep, window, limits)
    if kind == "GIF" or count > 1:
        return VideoFile(path, keep, window, threads, limits, animation=True)
    return ImageFiles(path, [path], limits)


class _BufferedSource(FrameSource):
    """A range of a decoder's frames, read through a :class:`_Prefetcher`."""

    _reopen: Callable[[], FrameSource]

    def __init__(
        self,
        path: Path,
        decoder: ImageFiles | AnimatedImage | VideoFile,
        start: int | None,
        end: int | None,
        prefetch: int,
        fps: float | None,
    ) -> None:
        count = decoder.count
        start_ = 0 if start is None else start
        end_ = count if end is None else end
        frames = f"'{path}' has {count} frames, numbered 0 to {count - 1}"
        if not 0 <= start_ < count:
            raise VideoError(f"start={start} is outside the video: {frames}.")
        if not start_ < end_ <= count:
            raise VideoError(f"end={end} must be above start={start_} and at most {count}: {frames}.")
        self.height, self.width = decoder.height, decoder.width
        self.fps = float(fps or decoder.fps or DEFAULT_FPS)
        self._follows_stamps = fps is None and decoder.time_of(0) is not None
        self.sound = path.absolute() if isinstance(decoder, VideoFile) and self._follows_stamps else None
        self.name = path.resolve().name if path.is_dir() else path.stem
        self._path = path
        self._decoder = decoder
        self._start, self._end = start_, end_
        ahead = min(prefetch, max(1, HELD_BYTES // (3 * self.height * self.width)))
        self._prefetcher = _Prefetcher(decoder, start_, end_, ahead)
        # The finalizer also runs if the source is dropped without closing or the process ends, to end the decoder's
        # thread.
        self._finalizer = weakref.finalize(self, self._prefetcher.stop)
        self._last: int | None = None
        self._warn(stacklevel=4)

    def __len__(self) -> int:
        return max(0, min(self._end, self._decoder.count) - self._start)

    def __getitem__(self, index: int) -> np.ndarray:
        if not hasattr(index, "__index__"):
            raise TypeError(f"A frame is read by its number, an int; got {type(index).__name__}.")
        given, index = index, index.__index__()
        if not self._finalizer.alive:
            raise VideoError(f"'{self._path}' was closed; open it again to read frames.")
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            frames = f"{len(self)} frames here, numbered 0 to {len(self) - 1}. {self._decoder.shortfall}"
            raise IndexError(f"Frame {given} is outside '{self._path}', which has {frames.strip()}")
        backward = self._last is not None and 0 < self._last - index <= SKIP_RATHER_THAN_SEEK
        self._last = index
        try:
            return self._prefetcher.get(self._start + index, backward)
        finally:
            self._warn(stacklevel=3)

    def frame_name(self, index: int) -> str:
        return self._decoder.frame_name(self._start + index)

    def frame_time(self, index: int) -> float:
        if self._follows_stamps and (time := self._decoder.time_of(self._start + index)) is not None:
            return time
        return (self._start + index) / self.fps

    @property
    def shortfall(self) -> str:  # type: ignore[override]  # reading may change it
        return self._decoder.shortfall

    def close(self) -> None:
        self._finalizer()

    def __reduce__(self) -> tuple[Callable[[], FrameSource], tuple[()]]:
        # A copy, in this process or another, opens the file again, because a decoder and its thread cannot be copied.
        return self._reopen, ()

    def _warn(self, stacklevel: int) -> None:
        """Emit the warnings that the decoder has found."""
        while self._decoder.findings:
            warnings.warn(self._decoder.findings.popleft(), RuntimeWarning, stacklevel=stacklevel)


class _Prefetcher:
    """Runs a decoder a few frames ahead of its reader.

    It has no reference to its source, so that a source that is dropped without closing can be garbage collected.
    """

    def __init__(self, decoder: ImageFiles | AnimatedImage | VideoFile, first: int, end: int, prefetch: int) -> None:
        self._decoder = decoder
        self._first, self._end = first, end
        self._prefetch = prefetch
        self._one_reader = threading.Lock()
        self._changed = threading.Condition()
        self._ready: dict[int, np.ndarray | Exception] = {}
        self._plan: range = range(0)  # the frames to decode, the most urgent first
        self._backward = False
        self._thread: threading.Thread | None = None

    def get(self, index: int, backward: bool) -> np.ndarray:
        """Return a frame, which is decoded ahead or now, and plan the next ones."""
        with self._one_reader:
            if self._prefetch == 0:
                return self._decoder.read(index, backward)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="efficienttam-video-decoder", daemon=True)
                self._thread.start()
            with self._changed:
                self._move_to(index, backward, ahead_only=False)
                while index not in self._ready:
                    if self._decoder.stopping or not self._thread.is_alive():
                        raise VideoError(
                            "The thread that decodes this video is gone: the video was closed while being read, or the "
                            "process was forked after opening it. Open a video in the process that reads it."
                        )
                    self._changed.wait(1.0)
                result = self._ready.pop(index)
                self._move_to(index, backward, ahead_only=True)
        if isinstance(result, Exception):
            raise result
        return result

    def _move_to(self, index: int, backward: bool, ahead_only: bool) -> None:
        """Plan the frames that follow ``index`` in the direction of reading, and drop the others."""
        step = -1 if backward else 1
        last = index + step * self._prefetch
        bounded = max(last, self._first) if backward else min(last, self._end - 1)
        self._plan = range(index + step if ahead_only else index, bounded + step, step)
        self._backward = backward
        self._ready = {i: frame for i, frame in self._ready.items() if i in self._plan}
        self._changed.notify_all()

    def _run(self) -> None:
        """Run the thread, and close the decoder at its end."""
        try:
            self._work()
        finally:
            self._decoder.close()

    def _work(self) -> None:
        """Decode the planned frames until the source is closed."""
        while True:
            with self._changed:
                while not self._decoder.stopping and (index := self._most_urgent()) is None:
                    self._changed.wait()
                if self._decoder.stopping:
                    return
                assert index is not None
                backward = self._backward
            result: np.ndarray | Exception
            try:
                result = self._decoder.read(index, backward)
            except Cancelled:
                return
            except Exception as error:  # noqa: BLE001 -- raised when this frame is read, if it is
                result = error
            with self._changed:
                if index in self._plan:
                    self._ready[index] = result
                self._changed.notify_all()

    def _most_urgent(self) -> int | None:
        """Return the first planned frame that is not decoded yet, or None."""
        return next((i for i in self._plan if i not in self._ready), None)

    def stop(self) -> None:
        """Stop the thread, wait for it, and close the decoder."""
        self._decoder.stopping = True  # stops the decoder between two frames
        if self._thread is None:
            self._decoder.close()
        elif self._thread is not threading.current_thread():  # the garbage collector may run in the decoder's thread
            with self._changed:
                self._changed.notify_all()
            self._thread.join()
            self._ready.clear()


# -------------------------------------------------------------------------------------------------------------- cameras


class CameraStream(Iterator[np.ndarray]):
    """A live source of frames. Iterate over it until it ends or is closed; it has no length and cannot go back.

    Args:
        source: the index of a camera, or the address of a network stream.

    Attributes:
        height: the height of the frames in pixels.
        width: the width of the frames in pixels.
        fps: the frames per second that the source states; 24 if it states none.

    Raises:
        VideoError: if no frame can be read.
        ImportError: if OpenCV is not installed.
    """

    def __init__(self, source: int | str) -> None:
        try:
            import cv2
        except ImportError as error:
            raise ImportError("Reading a camera needs OpenCV: pip install efficienttam-hf[video].") from error
        self._cv2 = cv2
        self._source = source
        self._capture = cv2.VideoCapture(source)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a slow reader gets the newest frame, if the driver allows it
        opened, frame = self._capture.read()
        self._first: np.ndarray | None = frame
        if not opened:
            self._capture.release()
            what = f"camera {source}" if isinstance(source, int) else f"'{source}'"
            raise VideoError(
                f"No frame comes from {what}. Give the index of a connected camera (0 is the first) that no other "
                "program uses, or the address of a stream, such as rtsp://host/path."
            )
        self.height, self.width = frame.shape[:2]
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if fps and math.isfinite(fps) and fps > 0 else DEFAULT_FPS

    def __next__(self) -> np.ndarray:
        frame, self._first = self._first, None
        if frame is None and self._capture.isOpened():
            frame = self._capture.read()[1]
        if frame is None:
            self.close()
            raise StopIteration
        return self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """Release the camera and end the iteration. Further calls have no effect."""
        self._first = None
        self._capture.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_camera(index_or_url: int | str) -> CameraStream:
    """Open a camera by its index or a network stream by its address.

    Args:
        index_or_url: the index of a camera, or the address of a stream.

    Returns:
        An iterator over uint8 ``(height, width, 3)`` RGB frames, until the stream ends. Use it in a ``with`` statement.

    Raises:
        VideoError: if no frame can be read.
        ImportError: if OpenCV is not installed.
    """
    return CameraStream(index_or_url)
