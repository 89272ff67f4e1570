"""Reads image files: one file as an RGB array, and several files as the frames of a video.

Images have many forms (palettes, 16 bits, rotation in EXIF), some files contain several pictures, and some files are
made to do harm. All of this is handled here, with errors that name the file, so that callers always get uint8 RGB.
Every image of the package is opened by :func:`open_image`: by its content, in one of the formats listed here, and only
after its size was compared with :class:`~efficienttam_hf.video_io.MediaLimits`.
:func:`efficienttam_hf.video_io.open_video` opens folders with :class:`ImageFiles`, and animated WebP images and TIFF
files of several pages with :class:`AnimatedImage`.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ._media import MediaLimits, VideoError, check_regular_file
from .frame_names import IMAGE_SUFFIXES, list_frames


__all__ = ["IMAGE_SUFFIXES", "list_frames", "open_image", "read_image"]

# Pillow's names. Other formats start programs (EPS starts Ghostscript), or are rare and little tested.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "PPM")
_STRIP_BYTES = 2**24  # bytes of RGB that are converted at once
_SMALLER_COPY, _MASK_PAGE = 1, 4  # bits of TIFF's NewSubfileType, which mark pages that are not separate pictures
_pillow_limit = threading.Lock()


def read_image(path: str | os.PathLike | BinaryIO, *, limits: MediaLimits | None = None) -> np.ndarray:
    """Read an image as RGB, as a viewer shows it.

    The orientation in EXIF is applied. Greyscale, palette and CMYK images are converted to RGB. An alpha channel is
    dropped without compositing. 16-bit greyscale is divided by 257 (white stays white), and of 16-bit colours the high
    byte is used.

    Args:
        path: the path of a JPEG, PNG, WebP, BMP, TIFF, AVIF, GIF or PPM file with any suffix, or an open binary file.
        limits: the limits of the image's size; None is :meth:`MediaLimits.from_environment`.

    Returns:
        uint8 ``(height, width, 3)``, RGB.

    Raises:
        FileNotFoundError: if there is no file at ``path``.
        VideoError: if the file is empty, damaged, not an image, too large, has several frames or pages, or has values
            without a defined brightness (floating point, 32-bit integers above 65535).
    """
    name = _name_of(path)
    with open_image(path, limits=limits) as image:
        check_single(image, name)
        return image_to_rgb(image, name)


def check_single(image: Image.Image, name: str) -> None:
    """Refuse a file of several pictures, of which Pillow would show the first.

    Args:
        image: the open image.
        name: the name of the file for messages.

    Raises:
        VideoError: if it is an animation, has several pages, or is damaged.
    """
    count = frame_count(image, name)
    if count > 1:
        raise VideoError(
            f"'{name}' holds {count} {'pages' if image.format == 'TIFF' else 'frames'}, and one image is wanted "
            "here: open it as a video, or save the one you mean as a file of its own."
        )


def image_to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """Convert the current frame of an open image as :func:`read_image` does.

    Args:
        image: the open image.
        name: the name of the file for messages.

    Returns:
        uint8 ``(height, width, 3)``, RGB.

    Raises:
        VideoError: if it is damaged, or its values have no defined brightness.
    """
    with _decoding(name):
        ImageOps.exif_transpose(image, in_place=True)
        image.load()
        if image.mode.startswith("I"):
            values = np.asarray(image)
            if values.min() < 0 or values.max() > 65535:
                raise VideoError(
                    f"'{name}' has values from {values.min()} to {values.max()}; 8-bit and 16-bit images are accepted."
                )
            grey = np.stack([(row.astype(np.int32) + 128) // 257 for row in values], dtype=np.uint8, casting="unsafe")
            return np.repeat(grey[..., None], 3, axis=2)
        if image.mode == "F":
            raise VideoError(f"'{name}' is a floating-point image; 8-bit and 16-bit images are accepted.")
        # The image is converted in strips, because each of Pillow's conversions makes a copy with four bytes per pixel.
        rgb = np.empty((image.height, image.width, 3), np.uint8)
        rows = max(1, _STRIP_BYTES // (3 * image.width))
        for top in range(0, image.height, rows):
            strip = image.crop((0, top, image.width, min(top + rows, image.height)))
            rgb[top : top + rows] = np.asarray(strip.convert("RGB"))
        return rgb


def open_image(path: str | os.PathLike | BinaryIO, *, limits: MediaLimits | None = None) -> Image.Image:
    """Open an image with Pillow, by its content and in one of :data:`FORMATS`, without decoding it.

    This is the only place that calls ``Image.open``. Use the result in a ``with`` statement.

    Args:
        path: the path of the file, or an open binary file, which is not closed.
        limits: the limits of the image's size; None is :meth:`MediaLimits.from_environment`.

    Returns:
        The open image.

    Raises:
        FileNotFoundError: if there is no file at ``path``.
        VideoError: if it is not a regular file, not an image, damaged, or has more pixels than allowed.
    """
    limits = limits or MediaLimits.from_environment()
    name = _name_of(path)
    if isinstance(path, (str, os.PathLike)):
        path = Path(path)
        try:
            check_regular_file(path, "an image")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"There is no image at '{path}'.") from error
        with path.open("rb") as file:
            _check_webp_size(file.read(30), name, limits)
    else:
        _check_webp_size(path.read(30), name, limits)
        path.seek(0)
    with _decoding(name):
        image = _open_with_pillow(path, limits)
        try:
            limits.check_picture(f"'{name}' is", image.width, image.height)
        except VideoError:
            image.close()
            raise
        return image


def _open_with_pillow(path: Path | BinaryIO, limits: MediaLimits) -> Image.Image:
    """Open an image, also if it is larger than Pillow's own limit, so that the message can state its size."""
    if limits.max_pixels <= (Image.MAX_IMAGE_PIXELS or limits.max_pixels):
        try:
            return Image.open(path, formats=_supported_formats())
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            pass  # this error does not have the size, which the user needs
    # Pillow's limit applies to the whole process. It is lifted for this one call, which only reads the header.
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_supported_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = before


@cache
def _supported_formats() -> tuple[str, ...]:
    """Return the names in :data:`FORMATS` that this installation of Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Convert Pillow's many kinds of errors for damaged images to VideoError."""
    try:
        yield
    except VideoError:
        raise
    except UnidentifiedImageError as error:
        raise VideoError(f"'{name}' is not an image that can be read; JPEG and PNG are accepted.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise VideoError(f"'{name}' has more pixels than Pillow decodes ({error}).") from error
    except MemoryError as error:
        raise VideoError(f"'{name}' does not fit into memory; scale it down first.") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # an error of the system
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VideoError(f"'{name}' is damaged or cut short and cannot be decoded ({reason}).") from error


def _name_of(path: str | os.PathLike | BinaryIO) -> str:
    """Return the name of a file for messages."""
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "the image")


def _check_webp_size(head: bytes, name: str, limits: MediaLimits) -> None:
    """Compare the canvas of a WebP image with the limit, because Pillow allocates it when it opens the file."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return
    if head[12:16] == b"VP8X":
        width, height = 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        limits.check_picture(f"'{name}' is", width, height)


def frame_count(image: Image.Image, name: str) -> int:
    """Count the pictures of an open image: frames of an animation, or pages, without the smaller copies in a TIFF.

    Args:
        image: the open image.
        name: the name of the file for messages.

    Raises:
        VideoError: if the file is damaged.
    """
    if image.format == "MPO":  # a JPEG that is followed by previews, depth or a second view
        return 1
    with _decoding(name):
        return len(_pages(image)) if image.format == "TIFF" else getattr(image, "n_frames", 1)


def _pages(image: Image.Image) -> list[int]:
    """Return the numbers of the pages of a TIFF that are separate pictures."""
    count = getattr(image, "n_frames", 1)
    if count == 1:
        return [0]
    pages = []
    for page in range(count):
        image.seek(page)
        tags: Any = image
        kind = tags.tag_v2.get(254, 0)
        if not (isinstance(kind, int) and kind & (_SMALLER_COPY | _MASK_PAGE)):
            pages.append(page)
    image.seek(0)
    return pages or [0]


def is_supported(kind: str) -> bool:
    """Whether this installation of Pillow reads images of a kind, which is an output of :func:`kind_of_file`."""
    return kind in _supported_formats()


def kind_of_file(path: Path) -> str:
    """Return the image format of a file by its first bytes, as Pillow's name in capitals; '' if it is not an image."""
    with path.open("rb") as file:
        head = file.read(32)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp" and any(head[at : at + 4] in (b"avif", b"avis") for at in range(8, 32, 4)):
        return "AVIF"
    starts = {
        b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP",
        b"II*\x00": "TIFF", b"MM\x00*": "TIFF", b"II+\x00": "TIFF", b"MM\x00+": "TIFF",
    }  # fmt: skip
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    return next((kind for start, kind in starts.items() if head.startswith(start)), "")


def stored_size(path: Path, limits: MediaLimits) -> tuple[int, int]:
    """Return the displayed (height, width) of an image from its header, with EXIF rotation if that is fast to read.

    Raises:
        VideoError: if the file has several frames, or :func:`open_image` refuses it.
    """
    with open_image(path, limits=limits) as image:
        if (count := frame_count(image, str(path))) > 1:
            raise VideoError(
                f"'{path}' holds {count} frames, while a folder of frames has one in each file; open it as a video of "
                "its own."
            )
        return displayed_size(image, str(path))


def displayed_size(image: Image.Image, name: str) -> tuple[int, int]:
    """Return the displayed (height, width) of an open image, with EXIF rotation if that is fast to read.

    Args:
        image: the open image.
        name: the name of the file for messages.

    Raises:
        VideoError: if the header is damaged.
    """
    with _decoding(name):
        width, height = image.size
        # For PNG, Pillow would decode the whole image to find EXIF, which PNG frames do not have in practice.
        if image.format in ("JPEG", "MPO") and image.getexif().get(0x0112, 1) >= 5:
            return width, height
        return height, width


def decode(image: Image.Image, name: str) -> None:
    """Decode an open image, to check that it is complete and a single picture.

    Args:
        image: the open image.
        name: the name of the file for messages.

    Raises:
        VideoError: if it is damaged, or has several frames or pages.
    """
    check_single(image, name)
    with _decoding(name):
        image.load()


class ImageFiles:
    """A decoder of image files. Frames are independent, so it keeps no state between them.

    Args:
        path: the folder.
        files: the image files in order.
        limits: the limits of the size and the length.

    Raises:
        VideoError: if an image cannot be read, or sizes differ.
    """

    fps: float | None = None
    shortfall = ""
    stopping = False

    def __init__(self, path: Path, files: list[Path], limits: MediaLimits) -> None:
        self._files, self._limits = files, limits
        self.count = len(files)
        self.findings: deque[str] = deque()
        first = stored_size(files[0], limits)
        limits.check_length(path, first[1], first[0], self.count)
        self.height, self.width = read_image(files[0], limits=limits).shape[:2]
        # All headers are read now (about 0.1 ms per file), so that no error occurs in the middle of tracking.
        for file in files[1:]:
            if (size := stored_size(file, limits)) != first:
                self._refuse(file, size, first)

    def read(self, index: int, backward: bool) -> np.ndarray:
        """Read a frame as uint8 ``(height, width, 3)`` RGB. The direction of reading has no effect."""
        image = read_image(self._files[index], limits=self._limits)
        if image.shape[:2] != (self.height, self.width):
            self._refuse(self._files[index], image.shape[:2], (self.height, self.width))
        return image

    def _refuse(self, file: Path, size: tuple[int, ...], first: tuple[int, ...]) -> None:
        """Raise VideoError for a frame of another size."""
        raise VideoError(
            f"The images in '{file.parent}' change size: '{file.name}' is {size[1]}x{size[0]} pixels, while "
            f"'{self._files[0].name}' is {first[1]}x{first[0]}. All frames of a video must have one size."
        )

    def frame_name(self, index: int) -> str:
        """Return the name of a frame's file without its suffix."""
        return self._files[index].stem

    def time_of(self, index: int) -> None:
        """Return None, because image files have no time stamps."""

    def close(self) -> None: ...


class AnimatedImage:
    """A decoder of the frames of an animated WebP image or the pages of a TIFF file.

    To read a WebP backward, it must be decoded from the beginning. So up to ``window`` frames are decoded forward and
    kept, as in :class:`~efficienttam_hf._video_decoder.VideoFile`.

    Args:
        path: the path of the file.
        keep: the number of decoded frames to keep.
        window: the number of frames to keep while reading backward; None chooses it by the size of a frame.
        limits: the limits of the size and the length.

    Raises:
        VideoError: if the file is damaged or too large.
    """

    shortfall = ""
    stopping = False

    def __init__(self, path: Path, keep: int, window: int | None, limits: MediaLimits) -> None:
        self._path, self._keep = path, keep
        self.findings: deque[str] = deque()
        self._held: dict[int, np.ndarray] = {}
        self._image = open_image(path, limits=limits)
        try:
            with _decoding(str(path)):
                pages = _pages(self._image) if self._image.format == "TIFF" else None
                self.count = getattr(self._image, "n_frames", 1) if pages is None else len(pages)
                self._pages = pages
            limits.check_length(path, self._image.width, self._image.height, self.count, animation=True)
            self._times = None if pages else _webp_times(path, self.count)
            self.fps = self.count / self._times[-1] if self._times else None
            self.height, self.width = self._decode(0).shape[:2]
        except BaseException:
            self.close()
            raise
        fits = 2**27 // (3 * self.height * self.width)
        self._window = min(max(fits, 2), 128) if window is None else window

    def read(self, index: int, backward: bool) -> np.ndarray:
        """Return frame ``index`` as uint8 ``(height, width, 3)`` RGB; ``backward`` is the direction of reading."""
        if index not in self._held:
            first = max(0, index - self._window + 1) if backward and self._pages is None else index
            for number in range(first, index + 1):
                if self.stopping:
                    break
                if number not in self._held:
                    self._held[number] = self._decode(number)
            limit = self._window if backward else self._keep
            while len(self._held) > limit and (oldest := next(iter(self._held))) != index:
                del self._held[oldest]
        return self._held[index].copy()

    def _decode(self, number: int) -> np.ndarray:
        """Decode a frame."""
        with _decoding(str(self._path)):
            self._image.seek(number if self._pages is None else self._pages[number])
            picture = self._image.copy()  # the rotation by EXIF must not change the next frame
        rgb = image_to_rgb(picture, str(self._path))
        if number and rgb.shape[:2] != (self.height, self.width):
            raise VideoError(
                f"'{self._path}' changes size: frame {number} is {rgb.shape[1]}x{rgb.shape[0]} pixels, while frame 0 "
                f"is {self.width}x{self.height}. All frames of a video must have one size."
            )
        return rgb

    def frame_name(self, index: int) -> str:
        """Return the number of a frame with five digits."""
        return f"{index:05d}"

    def time_of(self, index: int) -> float | None:
        """Return the begin of a frame in seconds, and the end of the last one for ``count``; None for pages."""
        return self._times[index] if self._times else None

    def close(self) -> None:
        """Close the file and drop the kept frames."""
        self._held.clear()
        self._image.close()


def _webp_times(path: Path, count: int) -> list[float] | None:
    """Return the begin of each frame of an animated WebP, and the end of the last one, in seconds.

    They are read from the file's ANMF chunks, because Pillow knows the duration of a frame only after decoding it. The
    result is None if the chunks are not as expected.
    """
    times = [0.0]
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            if header[:4] == b"ANMF":
                frame = file.read(16)
                times.append(times[-1] + int.from_bytes(frame[12:15], "little") / 1000)
                size -= len(frame)
            file.seek(size + size % 2, io.SEEK_CUR)
            if size < 0:
                return None
    return times if len(times) == count + 1 and times[-1] > 0 else None
