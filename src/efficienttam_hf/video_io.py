"""Frames in and out: video files, folders of images, cameras; label images and run-length masks.

A tracker walks a video once, usually forward, sometimes backward, now and then jumping to the frame a user clicked. It
must neither wait for the decoder nor hold the video in memory: a minute of 1080p is 11 GB as RGB. So a
:class:`FrameSource` decodes what is about to be read, on a thread of its own, and lets go of it afterwards; what it
keeps is bounded whatever the length of the video (see :func:`open_video`).

Frames are counted, never timed. Frame ``i`` is the ``i``-th picture that a decoder running from the beginning shows,
whether it was reached by reading forward, backward or by a jump. Seeking in a compressed video only reaches keyframes,
approximately, so the presentation time stamps of all packets are listed on opening (no decoding, the file is read once)
and every decoded picture is identified by its stamp. Files whose stamps cannot be trusted for this are decoded once on
opening instead.

Nothing here knows about models. PyAV, OpenCV and pycocotools are imported where they are used.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import threading
import warnings
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


if TYPE_CHECKING:
    from typing import Self


__all__ = [
    "CameraStream",
    "FrameSource",
    "VideoError",
    "VideoWriter",
    "atomic_path",
    "davis_palette",
    "decode_rle",
    "encode_rle",
    "open_camera",
    "open_video",
    "read_image",
    "read_indexed_png",
    "write_indexed_png",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
DEFAULT_FPS = 24.0  # of DAVIS and SA-V, for sources that do not say
REVERSE_BYTES = 128 * 2**20  # what frames held for reading backward may take, as decoded (about 1.5 bytes a pixel)
MAX_REORDER = 32  # pictures; twice what any common codec can delay a picture for reordering
BT709, BT601 = 1, 5  # colour matrices, as FFmpeg numbers them
SKIP_RATHER_THAN_SEEK = 16  # frames; below this, decoding on costs less than refilling the decoder after a seek


class VideoError(ValueError):
    """Something cannot be read or written as frames; the message says what, why, and what would be accepted."""


class _Cancelled(Exception):
    """The source was closed while its decoder was at work."""


class _RestartInSliceMode(Exception):
    """Pictures are missing while decoding several at once, where damage to one loses others around it."""


def _import_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Reading and writing video files needs PyAV: pip install efficienttam-hf[video]. "
            "Without it, a folder of JPEG or PNG frames can be read."
        ) from error
    return av


# ---------------------------------------------------------------------------------------------------------------- files


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path beside ``path``, moved there if the block ends well.

    Missing parent folders are created. If the block raises, the temporary file is removed and a file that was at
    ``path`` before stays as it was.
    """
    temporary = _temporary_beside(Path(path))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, hence same file system: only there is a move atomic. mkstemp would make a file that only its owner
    # may read.
    return path.parent / f".{path.stem}.{secrets.token_hex(4)}.part"


# --------------------------------------------------------------------------------------------------------------- images


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image as the RGB that a viewer shows.

    The orientation in EXIF is applied. Greyscale, palette and CMYK images become RGB; an alpha channel is dropped, not
    composited; 16-bit greyscale is scaled by 1/257 (white stays white), and of 16-bit colour the high byte is taken.

    Returns:
        uint8 ``(height, width, 3)``, RGB.

    Raises:
        FileNotFoundError: there is no file at ``path``.
        VideoError: the file is empty, damaged, not an image, or has values that have no defined brightness (floating
            point, 32-bit integers beyond 65535).
    """
    path = Path(path)
    with _open_image(path) as image:
        try:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                values = np.asarray(image).astype(np.int64)
                if values.min() < 0 or values.max() > 65535:
                    raise VideoError(
                        f"'{path}' has values from {values.min()} to {values.max()}; "
                        "8-bit and 16-bit images are accepted."
                    )
                return np.repeat(((values + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
            if image.mode == "F":
                raise VideoError(f"'{path}' is a floating-point image; 8-bit and 16-bit images are accepted.")
            return np.array(image.convert("RGB"))
        except VideoError:
            raise
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files, by format
            raise VideoError(f"'{path}' is damaged or cut short and cannot be decoded ({error}).") from error


def _open_image(path: Path) -> Image.Image:
    if path.is_dir():
        raise VideoError(f"'{path}' is a folder, not an image file.")
    if not path.exists():
        raise FileNotFoundError(f"There is no image at '{path}'.")
    if path.stat().st_size == 0:
        raise VideoError(f"'{path}' is empty (0 bytes), so it is not an image.")
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        raise VideoError(f"'{path}' is not an image that can be read; JPEG and PNG are accepted.") from error
    except OSError as error:
        if error.errno is not None:  # the system's: no permission, say
            raise
        raise VideoError(f"'{path}' is damaged or cut short and cannot be decoded ({error}).") from error


def _stored_size(path: Path) -> tuple[int, int]:
    """(height, width) from an image's header alone, as displayed where that is cheap to know."""
    with _open_image(path) as image:
        width, height = image.size
        # For PNG, Pillow would decode the whole image in search of EXIF, which PNG frames do not carry in practice.
        if image.format == "JPEG" and image.getexif().get(0x0112, 1) >= 5:
            return width, height
        return height, width


def _list_frames(folder: Path) -> list[Path]:
    """The images of a folder in the order of their numbers, which must be evenly spaced."""
    entries = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [p for p in entries if p.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        found = f"it holds {len(entries)} other files, such as '{entries[0].name}'" if entries else "it is empty"
        raise VideoError(f"The folder '{folder}' has no images ({found}); accepted are {', '.join(IMAGE_SUFFIXES)}.")
    if len(files) == 1:
        return files

    numbered: dict[int, Path] = {}
    for file in files:
        digits = re.findall(r"\d+", file.stem)
        if not digits:
            raise VideoError(
                f"'{file}' has no frame number in its name, so its place in the video is unknown; "
                "name frames by number, such as 00000.jpg, 00001.jpg."
            )
        other = numbered.setdefault(int(digits[-1]), file)
        if other is not file:
            raise VideoError(
                f"'{other.name}' and '{file.name}' in '{folder}' both have the frame number {int(digits[-1])}; "
                "keep one video's frames in one folder."
            )

    numbers = sorted(numbered)
    steps = Counter(b - a for a, b in pairwise(numbers))
    if len(steps) > 1:
        stride = max(steps, key=lambda step: (steps[step], -step))
        before, after = next((a, b) for a, b in pairwise(numbers) if b - a != stride)
        missing = [n for a, b in pairwise(numbers) for n in range(a + stride, b, stride)]
        shown = ", ".join(_numbered_like(numbered[numbers[0]], n) for n in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise VideoError(
            f"The frames in '{folder}' are not evenly numbered: '{numbered[before].name}' is followed by "
            f"'{numbered[after].name}', while frames elsewhere are {stride} apart"
            + (f". Missing: {shown}{more}. Add the missing frames" if missing else "")
            + ", or number the frames without gaps."
        )
    return [numbered[n] for n in numbers]


def _numbered_like(example: Path, number: int) -> str:
    *_, digits = re.finditer(r"\d+", example.stem)
    before, after = example.stem[: digits.start()], example.stem[digits.end() :]
    return f"{before}{number:0{len(digits.group())}d}{after}{example.suffix}"


# -------------------------------------------------------------------------------------------------------------- sources


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
    """

    height: int
    width: int
    fps: float
    name: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray: ...

    def frame_name(self, index: int) -> str:
        """What to call frame ``index`` in file names: its own file's stem, or its number as in ``00000``."""
        return f"{index:05d}"

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
) -> FrameSource:
    """Open a video file, an animated GIF or a folder of frames for reading, without loading it.

    What is kept in memory, whatever the length of the video: at most ``prefetch + 1`` RGB frames ahead of the reader,
    and, of video files, at most ``prefetch + 2`` decoded frames (about 1.5 bytes a pixel) behind it, or ``window`` of
    them while reading backward. Reading backward decodes up to ``window`` frames forward at once and hands them out in
    reverse; where keyframes are further apart than that, a frame is decoded about ``distance / (2 * window)`` times.

    The rotation that phones store beside the pictures is applied. Non-square pixels are not resampled.

    Args:
        source: A video file in any format that FFmpeg reads, a GIF, or a folder of JPEG or PNG frames numbered with a
            constant step (``00000.jpg``, ``00001.jpg``, or ``0.png``, ``5.png``, ``10.png``).
        start: First frame to read; it becomes frame 0 of the source. The beginning if None.
        end: The frame to stop before. The end if None.
        prefetch: Frames to decode ahead of the reader, in the direction it moves, on a background thread. With 0 there
            is no thread and frames are decoded in the call that reads them.
        window: Frames held while reading backward. As many as fit in 128 MiB, between 8 and 128, if None.
        threads: Threads of the decoder; FFmpeg chooses by the number of cores if 0. Where many videos are read at once,
            1.
        fps: Overrides the frame rate of the file; for folders, which have none, the default is 24.

    Returns:
        A :class:`FrameSource`.

    Raises:
        FileNotFoundError: there is nothing at ``source``.
        VideoError: the file is empty, not a video, or has no video that can be decoded; the folder has no images, gaps
            in its numbering or images of several sizes; ``start`` or ``end`` lie outside the video. Reading a frame
            raises it where a video changes size midway.
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
    if not path.exists():
        hint = "; download it first, or read live sources with open_camera" if "://" in str(source) else ""
        raise FileNotFoundError(f"There is no video file or folder of frames at '{source}'{hint}.")
    decoder: _ImageFiles | _VideoFile
    if path.is_dir():
        decoder = _ImageFiles(path, _list_frames(path))
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        decoder = _ImageFiles(path, [path])
    else:
        decoder = _VideoFile(path, keep=prefetch + 2, window=window, threads=threads)
    try:
        return _BufferedSource(path, decoder, start, end, prefetch, fps)
    except BaseException:
        decoder.close()
        raise


class _BufferedSource(FrameSource):
    """A range of a decoder's frames, read through a :class:`_Prefetcher`."""

    def __init__(
        self,
        path: Path,
        decoder: _ImageFiles | _VideoFile,
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
        self.name = path.resolve().name if path.is_dir() else path.stem
        self._path = path
        self._decoder = decoder
        self._start, self._end = start_, end_
        self._prefetcher = _Prefetcher(decoder, start_, end_, prefetch)
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

    def close(self) -> None:
        self._finalizer()

    def _warn(self, stacklevel: int) -> None:
        while self._decoder.findings:
            warnings.warn(self._decoder.findings.popleft(), RuntimeWarning, stacklevel=stacklevel)


class _Prefetcher:
    """Runs a decoder a few frames ahead of its reader.

    It knows nothing of the source that it serves, so that a source which is dropped unclosed can be collected.
    """

    def __init__(self, decoder: _ImageFiles | _VideoFile, first: int, end: int, prefetch: int) -> None:
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
                backward = self._backward
            result: np.ndarray | Exception
            try:
                result = self._decoder.read(index, backward)
            except _Cancelled:
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


class _ImageFiles:
    """Decoder over image files. Every frame stands alone, so there is nothing to seek and nothing to hold."""

    fps: float | None = None
    shortfall = ""
    stopping = False

    def __init__(self, path: Path, files: list[Path]) -> None:
        self._files = files
        self.count = len(files)
        self.findings: deque[str] = deque()
        self.height, self.width = read_image(files[0]).shape[:2]
        # All headers now, rather than an error in the middle of tracking; this takes some 0.1 ms a file.
        first = _stored_size(files[0])
        for file in files[1:]:
            if (size := _stored_size(file)) != first:
                self._refuse(file, size, first)

    def read(self, index: int, backward: bool) -> np.ndarray:
        image = read_image(self._files[index])
        if image.shape[:2] != (self.height, self.width):
            self._refuse(self._files[index], image.shape[:2], (self.height, self.width))
        return image

    def _refuse(self, file: Path, size: tuple[int, ...], first: tuple[int, ...]) -> None:
        raise VideoError(
            f"The images in '{file.parent}' change size: '{file.name}' is {size[1]}x{size[0]} pixels, while "
            f"'{self._files[0].name}' is {first[1]}x{first[0]}. All frames of a video must have one size."
        )

    def frame_name(self, index: int) -> str:
        return self._files[index].stem

    def close(self) -> None: ...


@dataclass
class _Keyframe:
    """A place where decoding can start.

    ``frame`` is the number of the first frame that is then shown correctly; ``pts`` and ``dts`` are the packet's
    presentation and decoding time in the stream's time base.
    """

    frame: int
    pts: int
    dts: int | None


@dataclass
class _FrameIndex:
    """Which frames a video file has.

    ``pts``: presentation times in order of showing; frame ``i`` is the picture stamped ``pts[i]``. Empty if the stamps
    are not usable, then frames are identified by counting from the beginning, and ``keyframes`` holds nothing but that.
    ``count``: number of frames. ``declared``: number of frames the file's header promises.
    """

    pts: list[int]
    keyframes: list[_Keyframe]
    count: int
    declared: int


class _VideoFile:
    """Decoder over a video file: random access by frame number, exact, with a bounded number of decoded frames held.

    ``count`` is the number of frames as far as known, ``shortfall`` says why it is less than the file declares ('' if
    it is not), and ``findings`` are messages about damage that the reader should be warned of.
    """

    def __init__(self, path: Path, keep: int, window: int | None, threads: int) -> None:
        self._av = _import_av()
        self._path = path
        self._threads = threads
        self._thread_type = "AUTO"
        self._container: Any = None
        self._held: dict[int, Any] = {}  # decoded pictures by frame number, ascending, the most recent ones
        self.stopping = False
        self.shortfall = ""
        self.findings: deque[str] = deque()
        self._damage_met = False
        self._damaged: set[int] = set()
        if path.stat().st_size == 0:
            raise VideoError(f"'{path}' is empty (0 bytes), so it is not a video.")
        try:
            self._build(keep, window)
        except BaseException:
            self.close()
            raise

    # --- opening

    def _build(self, keep: int, window: int | None) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()  # one for all frames: setting up a conversion costs as much as doing it
        self._open()
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else None
        index = self._index_from_packets()
        opening = self._surely(self._decode_opening)
        if index is not None and not self._agrees(index, opening):
            self._thread_type = "SLICE"  # is it damage, or are the stamps not those of pictures?
            opening = self._decode_opening()
        if not opening:
            raise VideoError(
                f"No frame of '{self._path}' can be decoded (codec {self._stream.codec_context.name}); "
                "the file is damaged, or its codec is not supported."
            )
        if index is None or not self._agrees(index, opening):
            index = self._surely(self._index_by_decoding)
            self._thread_type = "SLICE" if self._damage_met else "AUTO"
            self._open()
        else:
            self._decoded.extendleft(reversed(opening))
        self._next = 0  # the number of the frame that is decoded next
        self._index = index
        self._number_of = {pts: number for number, pts in enumerate(index.pts)}
        self._starts = [key.frame for key in index.keyframes]
        self._start_of = {key.pts: key.frame for key in index.keyframes}
        self.count = index.count
        if index.declared > index.count:
            self._fall_short()

        self._stored_size = (opening[0].height, opening[0].width)
        self._turn = _display_transform(opening[0])
        self.height, self.width = self._stored_size[::-1] if self._turn[0] else self._stored_size
        fits = REVERSE_BYTES // (self.height * self.width * 3 // 2)
        self._window = min(max(fits, 8), 128) if window is None else window
        self._keep = keep

    def _open(self) -> None:
        self.close()
        try:
            self._container = self._av.open(str(self._path))
        except (self._av.error.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise VideoError(
                f"'{self._path}' is not a video that can be read ({reason}). "
                "Accepted are video files such as MP4, WebM, MOV, AVI and GIF, and folders of JPEG or PNG frames."
            ) from error
        attached = getattr(self._av.stream, "Disposition", None)
        streams = [s for s in self._container.streams.video if not (attached and s.disposition & attached.attached_pic)]
        if not streams:
            kinds = sorted({s.type for s in self._container.streams}) or ["nothing"]
            raise VideoError(f"'{self._path}' has no video stream; it holds {', '.join(kinds)}.")
        self._stream = streams[0]
        if self._stream.codec_context is None:
            raise VideoError(f"The video in '{self._path}' is in a codec that this installation of PyAV cannot decode.")
        self._stream.thread_type = self._thread_type
        if self._thread_type != "SLICE":
            # While several pictures are decoded at once, damage is not repaired but left as noise; better to be told.
            self._stream.codec_context.options = {"err_detect": "explode"}
        self._stream.codec_context.thread_count = self._threads
        self._packets = self._demux()
        self._decoded: deque[Any] = deque()

    def _demux(self) -> Iterator[Any]:
        """Packets of the video stream, then one None that makes the decoder give out what it still holds."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    yield packet
        except self._av.error.FFmpegError:
            pass  # the file is cut short here
        yield None

    def _index_from_packets(self) -> _FrameIndex | None:
        """The frames by the time stamps of their packets; None if those cannot be relied on."""
        codec = self._stream.codec_context.name
        pts: list[int | None] = []  # of packets that show a picture, in decoding order
        keys: list[tuple[int | None, int | None]] = []
        packets = 0
        cut_inside = False
        for packet in self._packets:
            if packet is None:
                break
            packets += 1
            if packet.is_keyframe:
                keys.append((packet.pts, packet.dts))
            # VP8 stores reference pictures that are never shown as packets of their own; bit 4 says so.
            hidden = codec == "vp8" and not memoryview(packet)[0] & 0x10
            cut_inside = packet.is_corrupt
            if not hidden and not packet.is_discard:
                pts.append(packet.pts)
        if cut_inside and pts:
            pts.pop()  # the file ends within this packet
            packets -= 1

        self._packet_count = len(pts)
        # What an MP4 promises is its index after editing; the number of frames in its header also counts what an edit
        # list cuts away. Older PyAV does not show the index; then only files that end within a packet are told.
        entries = getattr(self._stream, "index_entries", None)
        promised = len(entries) if entries is not None else self._stream.frames * cut_inside
        declared = promised if "mp4" in self._container.format.name else 0
        lacking = max(0, declared - packets)

        times = [p for p in pts if p is not None]
        shown = sorted(times)
        if len(times) < len(pts) or len(set(times)) < len(times) or not keys or any(p is None for p, _ in keys):
            return None
        if not shown or min(key[0] for key in keys) > shown[0]:
            return (
                None  # begins with pictures whose references were cut away: decoders differ in which of them they show
            )
        if "avi" in self._container.format.name and len(keys) < packets:
            return None  # AVI may put two pictures into one packet
        place = {p: i for i, p in enumerate(shown)}
        if max(abs(place[p] - i) for i, p in enumerate(times)) > MAX_REORDER:
            return None  # the clock jumps, as in recordings that were joined
        keyframes = [_Keyframe(bisect_left(shown, p), p, dts) for p, dts in sorted(keys, key=lambda key: key[0])]
        return _FrameIndex(shown, keyframes, len(shown), len(shown) + lacking)

    def _decode_opening(self, frames: int = 8) -> list[Any]:
        """The first few pictures: a check of the index, and the only way to know the true size and rotation."""
        self._open()
        opening: list[Any] = []
        while len(opening) < frames and (picture := self._next_picture()) is not None:
            opening.append(picture)
        return opening

    def _agrees(self, index: _FrameIndex, opening: list[Any]) -> bool:
        stamps = [picture.pts for picture in opening]
        if self._damage_met:
            return set(stamps) <= set(index.pts)
        return stamps == index.pts[: len(stamps)]

    def _index_by_decoding(self) -> _FrameIndex:
        self._open()
        count = 0
        while self._next_picture() is not None:
            count += 1
        if count < self._packet_count and self._thread_type != "SLICE":
            raise _RestartInSliceMode  # tells damage from files that have two packets for one picture
        # No time stamps: whatever made them doubtful would also make seeking by them doubtful.
        return _FrameIndex([], [_Keyframe(0, 0, None)], count, self._packet_count if self._damage_met else count)

    # --- reading

    def read(self, index: int, backward: bool) -> np.ndarray:
        """Frame ``index`` as uint8 ``(height, width, 3)`` RGB; ``backward`` if the reader moves that way."""
        if index >= self.count:
            raise IndexError(f"Frame {index} of '{self._path}' cannot be read. {self.shortfall}")
        if index not in self._held:
            self._surely(self._decode_up_to, index, backward)
        return self._to_rgb(self._held[index], index)

    def _surely(self, decode: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``decode``; where damage is met, once more with a decoder that works on one frame at a time."""
        try:
            return decode(*arguments)
        except _RestartInSliceMode:
            self._thread_type = "SLICE"
            self._open()
            self._next = 0
            self._held.clear()
            return decode(*arguments)

    def _decode_up_to(self, index: int, backward: bool) -> None:
        """Put frame ``index`` among the held ones; when moving backward, also the frames before it."""
        starts = self._starts
        latest = bisect_right(starts, index) - 1
        if backward:
            # As many whole groups of pictures as can be held: seeking costs, most where every frame is a keyframe.
            latest = min(latest, bisect_left(starts, index - self._window + 1))
        if index < self._next or starts[latest] > self._next + SKIP_RATHER_THAN_SEEK:
            self._restart(latest)
        while self._next <= index and self._advance(index, self._window if backward else self._keep):
            pass
        if index not in self._held:
            self.count = self._next
            self._fall_short()
            raise IndexError(f"Frame {index} of '{self._path}' cannot be read. {self.shortfall}")

    def _restart(self, number: int) -> None:
        """Make keyframe ``number``, or an earlier one if that turns out to be unusable, the next frame to decode."""
        self._held.clear()
        while True:
            start = self._go_to(number)
            self._next = start
            picture = self._next_known_picture()
            if picture is not None:
                self._decoded.appendleft(picture)
            if start == 0:
                return
            # Not shown are damaged keyframes, and those that only begin a gradual refresh: what follows them is not the
            # same as when decoded from the beginning.
            if picture is not None and self._number(picture) == start:
                return
            number = bisect_left(self._starts, start)
            del self._start_of[self._index.keyframes[number].pts], self._starts[number], self._index.keyframes[number]
            number -= 1

    def _go_to(self, number: int) -> int:
        """Seek to keyframe ``number``, or an earlier one if seeking does not reach it; its frame number."""
        for key in self._index.keyframes[number : max(number - 3, 0) : -1]:
            # Containers search by presentation time or by decoding time; which, only trying tells.
            for time in {key.pts: None, key.dts: None}:
                if time is not None and (start := self._seek(time)) is not None and start <= key.frame:
                    return start
        self._open()
        return 0

    def _seek(self, time: int) -> int | None:
        """Seek to the keyframe at or before ``time`` and return its frame number, None if it did not work."""
        try:
            self._container.seek(time, stream=self._stream)
        except self._av.error.FFmpegError:
            return None
        self._decoded.clear()
        packets = self._demux()
        for packet in packets:
            if packet is None:
                return None
            # Some containers land between keyframes; pictures from there would miss their references.
            if packet.is_keyframe:
                break
        else:
            return None

        def from_keyframe() -> Iterator[Any]:
            yield packet
            yield from packets

        self._packets = from_keyframe()
        return self._start_of.get(packet.pts)

    def _advance(self, wanted: int, limit: int) -> bool:
        """Decode the next frame and hold it; False at the end.

        Beyond ``limit`` frames, those before ``wanted`` are let go of, the oldest first.
        """
        picture = self._next_known_picture()
        number = self.count if picture is None else self._number(picture)
        if number > self._next and self._thread_type != "SLICE":
            raise _RestartInSliceMode
        if picture is None:
            return False
        missing = range(self._next, number)
        self._held.update(dict.fromkeys(missing, self._held.get(self._next - 1, picture)))
        if not self._damaged.issuperset(missing):
            self._damaged.update(missing)
            frames = f"Frames {missing[0]} to {missing[-1]}" if len(missing) > 1 else f"Frame {missing[0]}"
            shown = self._next - 1 if self._next else number
            self.findings.append(
                f"{frames} of '{self._path}' cannot be decoded, the file is damaged there; "
                f"frame {shown} is shown instead."
            )
        self._held[number] = picture
        self._next = number + 1
        while len(self._held) > limit and (oldest := next(iter(self._held))) < wanted:
            del self._held[oldest]
        return True

    def _number(self, picture: Any) -> int:
        """The frame number of a picture that was just decoded, -1 if the file does not show it."""
        return self._number_of.get(picture.pts, -1) if self._index.pts else self._next

    def _next_known_picture(self) -> Any | None:
        # Skipped are pictures before the keyframe where decoding began, which lack their references.
        while (picture := self._next_picture()) is not None and self._number(picture) < self._next:
            pass
        return picture

    def _next_picture(self) -> Any | None:
        """The next picture in order of showing, whatever its number; None at the end."""
        if self.stopping:
            raise _Cancelled
        while not self._decoded:
            packet = next(self._packets, _END)
            if packet is _END:
                return None
            try:
                self._decoded.extend(self._stream.decode(packet))
            except self._av.error.FFmpegError as error:
                if self._thread_type != "SLICE":
                    raise _RestartInSliceMode from error
                self._damage_met = True
        return self._decoded.popleft()

    def _to_rgb(self, picture: Any, index: int) -> np.ndarray:
        if (picture.height, picture.width) != self._stored_size:
            height, width = self._stored_size
            raise VideoError(
                f"'{self._path}' changes size: frame {index} is {picture.width}x{picture.height} pixels, while frame 0 "
                f"is {width}x{height}. All frames of a video must have one size: read only the frames before, with "
                f"end={index}, or re-encode the video."
            )
        # Older PyAV takes the range from nowhere else, and the matrix of the picture only if another is named for RGB,
        # which has none.
        converted = self._reformatter.reformat(
            picture, format="rgb24", src_color_range=picture.color_range or None, dst_colorspace=BT601
        )
        rgb = converted.to_ndarray()
        transpose, flip_rows, flip_columns = self._turn
        if transpose or flip_rows or flip_columns:
            turned = rgb.transpose(1, 0, 2) if transpose else rgb
            rgb = np.ascontiguousarray(turned[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])
        return rgb

    def _fall_short(self) -> None:
        self.shortfall = (
            f"Only {self.count} of its {self._index.declared} frames can be decoded: the file is cut short or damaged."
        )
        self.findings.append(f"'{self._path}': {self.shortfall[0].lower()}{self.shortfall[1:]}")

    def frame_name(self, index: int) -> str:
        return f"{index:05d}"

    def close(self) -> None:
        self._held.clear()
        self._decoded = deque()
        self._packets = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None


_END = object()


def _display_transform(picture: Any) -> tuple[bool, bool, bool]:
    """How to turn decoded pictures for display: (swap rows and columns, then flip rows, then flip columns).

    From the 3x3 display matrix of FFmpeg (16.16 fixed point, row vectors: ``x' = a x + c y``, ``y' = b x + d y``).
    Turns by other than quarter circles, which no camera writes, are ignored.
    """
    matrix = next((data for data in picture.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5]
    if a and d and not b and not c:
        return False, bool(d < 0), bool(a < 0)
    if b and c and not a and not d:
        return True, bool(b < 0), bool(c < 0)
    return False, False, False


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
        opened, self._first = self._capture.read()
        if not opened:
            self._capture.release()
            what = f"camera {source}" if isinstance(source, int) else f"'{source}'"
            raise VideoError(
                f"No frame comes from {what}. Give the index of a connected camera (0 is the first) that no other "
                "program uses, or the address of a stream, such as rtsp://host/path."
            )
        self.height, self.width = self._first.shape[:2]
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


# -------------------------------------------------------------------------------------------------------------- writing


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
        av = _import_av()
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
        self._temporary = _temporary_beside(self._path)
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


# ----------------------------------------------------------------------------------------------- label images and masks


def davis_palette() -> np.ndarray:
    """The colours of DAVIS (and PASCAL VOC) annotations: uint8 ``(256, 3)`` RGB, row 0 the black background.

    The bits of an index, lowest first, are dealt in turn to red, green and blue, which they fill from the highest.
    """
    indices = np.arange(256, dtype=np.uint8)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        channel, place = bit % 3, 7 - bit // 3
        palette[:, channel] |= ((indices >> bit) & 1) << place
    return palette


def write_indexed_png(path: str | os.PathLike, labels: np.ndarray) -> None:
    """Write object indices as a palette PNG in the colours of DAVIS, whole or not at all.

    Args:
        path: Missing folders are created.
        labels: Integers or bool ``(height, width)``, 0 is background, at most 255.

    Raises:
        VideoError: another shape or type, or values outside 0 to 255.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "bui" or labels.size == 0:
        raise VideoError(f"Labels must be integers of shape (height, width), got {labels.dtype} {labels.shape}.")
    if labels.min() < 0 or labels.max() > 255:
        raise VideoError(
            f"A PNG holds object indices from 0 to 255, got {labels.min()} to {labels.max()}; renumber the objects."
        )
    image = Image.fromarray(np.ascontiguousarray(labels.astype(np.uint8)))
    image.putpalette(davis_palette().tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def read_indexed_png(path: str | os.PathLike) -> np.ndarray:
    """Read object indices from an annotation image.

    - palette: the indices themselves, whatever their colours;
    - greyscale: the values themselves, but only 0 and 255 is a binary mask (DAVIS-2016) and gives 0 and 1;
    - colour: grey pixels as greyscale, or the colours of the DAVIS palette as their indices.

    Returns:
        uint8 ``(height, width)``.

    Raises:
        FileNotFoundError: there is no file at ``path``.
        VideoError: not an image, more than 8 bits of label, or colours that are not those of DAVIS.
    """
    path = Path(path)
    with _open_image(path) as image:
        try:
            if image.mode not in ("P", "1", "L") and not image.mode.startswith("I"):
                image = image.convert("RGB")
            values = np.array(image)
        except (OSError, SyntaxError) as error:
            raise VideoError(f"'{path}' is damaged or cut short and cannot be decoded ({error}).") from error
        if image.mode == "P":
            return values
    if values.ndim == 3:
        if (values == values[..., :1]).all():
            values = values[..., 0]
        else:
            colours = (davis_palette().astype(np.int64) * (65536, 256, 1)).sum(axis=1)
            order = np.argsort(colours)
            packed = (values.astype(np.int64) * (65536, 256, 1)).sum(axis=2)
            place = np.searchsorted(colours[order], packed).clip(0, 255)
            if (colours[order][place] != packed).any():
                raise VideoError(
                    f"'{path}' has colours that are not of the DAVIS palette; palette or greyscale PNG is accepted."
                )
            return order[place].astype(np.uint8)
    values = values.astype(np.int64)
    if values.min() < 0 or values.max() > 255:
        raise VideoError(f"'{path}' has labels from {values.min()} to {values.max()}; object indices go from 0 to 255.")
    if values.max() == 255 and np.isin(values, (0, 255)).all():
        values = values // 255
    return values.astype(np.uint8)


def _import_coco_mask() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("COCO run-length masks need pycocotools: pip install efficienttam-hf[video].") from error
    return mask


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """A mask in COCO's compressed run-length encoding, ready for JSON.

    Args:
        mask: bool, or integers that are 0 outside the object, ``(height, width)``.

    Returns:
        ``{"size": [height, width], "counts": str}``.

    Raises:
        VideoError: another shape or type.
        ImportError: pycocotools is not installed.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise VideoError(
            f"A mask must be bool of shape (height, width), got {mask.dtype} {mask.shape}; threshold logits at 0 first."
        )
    rle = _import_coco_mask().encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """The mask of a COCO run-length encoding: compressed (str or bytes counts) or not (a list of counts).

    Returns:
        bool ``(height, width)``.

    Raises:
        VideoError: not such an encoding, or its runs do not fill its size.
        ImportError: pycocotools is not installed.
    """
    coco = _import_coco_mask()
    try:
        (height, width), counts = rle["size"], rle["counts"]
        if isinstance(counts, (list, tuple)):
            rle = coco.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)
        elif isinstance(counts, str):
            rle = {"size": [height, width], "counts": counts.encode("ascii")}
        return coco.decode(rle).astype(bool)
    except (KeyError, TypeError, ValueError) as error:
        raise VideoError(
            f'Not a COCO run-length mask ({error}); {{"size": [height, width], "counts": str or list}} is accepted.'
        ) from error
