"""Reads frames from video files, folders of images and cameras.

A tracker walks a video once, usually forward, sometimes backward, now and then jumping to the frame a user clicked. It
must neither wait for the decoder nor hold the video in memory: a minute of 1080p is 11 GB as RGB. So a
:class:`FrameSource` decodes what is about to be read, on a thread of its own, and lets go of it afterwards; what it
keeps is bounded whatever the length of the video (see :func:`open_video`).

Frames are counted, never timed. Frame ``i`` is the ``i``-th picture that a decoder running from the beginning shows,
whether it was reached by reading forward, backward or by a jump; :mod:`._video_decoder` says how.

Nothing here knows about models. PyAV and OpenCV are imported where they are used.
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

DEFAULT_FPS = 24.0  # of DAVIS and SA-V, for sources that do not say


class FrameSource(ABC):
    """A video as a sequence of frames: what :func:`open_video` returns and what the rest of the package reads from.

    ``len(source)`` is the number of frames, ``source[i]`` is frame ``i`` as uint8 ``(height, width, 3)`` RGB, a fresh
    array that belongs to the caller; negative ``i`` counts from the end. Iterating yields the frames in order,
    ``reversed(source)`` from the last to the first. Use it in a ``with`` statement, or call :meth:`close` when done.

    Attributes:
        height: Pixels, after rotation.
        width: Pixels, after rotation.
        fps: Frames per second; the average where the rate varies, 24 where the source does not say.
        name: The file's name without its suffix, or the folder's name.
        sound: The file whose sound belongs to the frames at the times of :meth:`frame_time`, for
            :class:`~efficienttam_hf.video_writer.VideoWriter`; None for images, and where the caller set another rate.
        shortfall: Why there are fewer frames than the file states, in a sentence with both numbers; '' if there are
            not.
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
        """What to call frame ``index`` in file names: its own file's stem, or its number as in ``00000``."""
        return f"{index:05d}"

    def frame_time(self, index: int) -> float:
        """When frame ``index`` is shown, in seconds on the clock of the source, from ``0`` to ``len(source)``.

        The latter is when the last frame ends. Where the source has time stamps they are followed, so that a copy of
        the frames with these times lasts as long and is as fast, whether the rate is constant or not.
        """
        return index / self.fps

    @abstractmethod
    def close(self) -> None:
        """Let go of files and threads. Reading is no longer possible; closing again does nothing."""

    def __iter__(self) -> Iterator[np.ndarray]:
        index = 0
        while index < len(self):  # asked anew each time: a damaged file turns out shorter than it says
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
            except IndexError:  # the end of a damaged file: what decodes comes before it
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

    What is kept in memory, whatever the length of the video: at most ``prefetch + 1`` RGB frames ahead of the reader,
    and, of video files, at most ``prefetch + 2`` decoded frames (about 1.5 bytes a pixel) behind it, or ``window`` of
    them while reading backward. Reading backward decodes up to ``window`` frames forward at once and hands them out in
    reverse; where keyframes are further apart than that, a frame is decoded about ``distance / (2 * window)`` times. Of
    frames of more than some 30 megapixels fewer are kept, so that neither kind takes more than about half a gigabyte.

    What a file is, its content says, not its name. Files that name others (playlists, lists of images) are not opened.

    The rotation that phones store beside the pictures is applied. Non-square pixels are not resampled.

    Args:
        source: A video file (MP4, MOV, WebM, MKV, AVI, MPEG, WMV, FLV, Ogg, DV, MXF and others), an animated GIF, PNG,
            WebP or AVIF, a TIFF whose pages are the frames, or a folder of JPEG or PNG frames numbered with a constant
            step (``00000.jpg``, ``00001.jpg``, or ``0.png``, ``5.png``, ``10.png``).
        start: First frame to read; it becomes frame 0 of the source. The beginning if None.
        end: The frame to stop before. The end if None.
        prefetch: Frames to decode ahead of the reader, in the direction it moves, on a background thread. With 0 there
            is no thread and frames are decoded in the call that reads them.
        window: Frames held while reading backward. As many as fit in 128 MiB, between 8 and 128, if None.
        threads: Threads of the decoder; FFmpeg chooses by the number of cores if 0. Where many videos are read at once,
            1.
        fps: Overrides the frame rate of the file and its time stamps; for folders, which have none, the default is 24.
        limits: The largest video that is read; by default :meth:`MediaLimits.from_environment`.

    Returns:
        A :class:`FrameSource`.

    Raises:
        FileNotFoundError: there is nothing at ``source``.
        VideoError: the file is empty, not a video, larger than ``limits``, or has no video that can be decoded; the
            folder has no images, gaps in its numbering or images of several sizes; ``start`` or ``end`` lie outside the
            video. Reading a frame raises it where a video changes size midway.
        ImportError: a video file was given and PyAV is not installed.

    A video that is cut short is read as far as it decodes: ``len()`` shrinks to that once it is known, iteration ends
    there, reading beyond raises IndexError, and a warning says how many of how many frames there are. A frame in the
    middle that is damaged beyond decoding is replaced by the one before it, with a warning, so that later frames keep
    their numbers.
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
    """The decoder for a file, chosen by its content: one picture, an animated image, or a video."""
    kind = kind_of_file(path)
    motion_jpeg = kind == "JPEG" and path.suffix.lower() in (".mjpeg", ".mjpg")  # which begins as one JPEG does
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
        # Also runs when the source is dropped unclosed or the process ends, so that no thread is left inside a decoder.
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
        # A copy, in this process or another, opens the file itself: a decoder and its thread cannot be copied.
        return self._reopen, ()

    def _warn(self, stacklevel: int) -> None:
        while self._decoder.findings:
            warnings.warn(self._decoder.findings.popleft(), RuntimeWarning, stacklevel=stacklevel)


class _Prefetcher:
    """Runs a decoder a few frames ahead of its reader.

    It knows nothing of the source that it serves, so that a source which is dropped unclosed can be collected.
    """

    def __init__(self, decoder: ImageFiles | AnimatedImage | VideoFile, first: int, end: int, prefetch: int) -> None:
        self._decoder = decoder
        self._first, self._end = first, end
        self._prefetch = prefetch
        self._one_reader = threading.Lock()
        self._changed = threading.Condition()
        self._ready: dict[int, np.ndarray | Exception] = {}
        self._plan: range = range(0)  # frames to have ready, the most urgent first
        self._backward = False
        self._thread: threading.Thread | None = None

    def get(self, index: int, backward: bool) -> np.ndarray:
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
        step = -1 if backward else 1
        last = index + step * self._prefetch
        bounded = max(last, self._first) if backward else min(last, self._end - 1)
        self._plan = range(index + step if ahead_only else index, bounded + step, step)
        self._backward = backward
        self._ready = {i: frame for i, frame in self._ready.items() if i in self._plan}
        self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._decoder.close()

    def _work(self) -> None:
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
            except Exception as error:  # noqa: BLE001 -- belongs to the reader of this frame, if it is ever read
                result = error
            with self._changed:
                if index in self._plan:
                    self._ready[index] = result
                self._changed.notify_all()

    def _most_urgent(self) -> int | None:
        return next((i for i in self._plan if i not in self._ready), None)

    def stop(self) -> None:
        self._decoder.stopping = True  # ends a decoding run between two frames
        if self._thread is None:
            self._decoder.close()
        elif self._thread is not threading.current_thread():  # which is where the garbage collector may happen to run
            with self._changed:
                self._changed.notify_all()
            self._thread.join()
            self._ready.clear()


# -------------------------------------------------------------------------------------------------------------- cameras


class CameraStream(Iterator[np.ndarray]):
    """A live source of frames: iterate until it ends or is closed. It has no length and cannot go back.

    Attributes:
        height: Pixels.
        width: Pixels.
        fps: Frames per second that the source announces; 24 if it does not.
    """

    def __init__(self, source: int | str) -> None:
        try:
            import cv2
        except ImportError as error:
            raise ImportError("Reading a camera needs OpenCV: pip install efficienttam-hf[video].") from error
        self._cv2 = cv2
        self._source = source
        self._capture = cv2.VideoCapture(source)
        self._capture.set(
            cv2.CAP_PROP_BUFFERSIZE, 1
        )  # a slow reader should see the present, where the driver allows it
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
        """Let go of the camera; iteration ends. Closing again does nothing."""
        self._first = None
        self._capture.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_camera(index_or_url: int | str) -> CameraStream:
    """Open a camera by its index or a network stream by its address, as an iterator of frames.

    Returns:
        Yields uint8 ``(height, width, 3)`` RGB frames until the stream ends. Use it in a ``with`` statement.

    Raises:
        VideoError: no frame comes from there.
        ImportError: OpenCV is not installed.
    """
    return CameraStream(index_or_url)
