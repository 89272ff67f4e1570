"""Reads image files: one file as an RGB array, and several files as the frames of a video.

Photos come in many kinds (palettes, 16 bits, turned by EXIF), some files hold several pictures, and some are made to do
harm. All of that is settled here, with errors that name the file, so that whoever reads gets uint8 RGB and nothing
else. Every image of the package is opened by :func:`open_image`: by its content, in one of the formats listed here, and
only after its size was compared with :class:`~efficienttam_hf.video_io.MediaLimits`.
:func:`efficienttam_hf.video_io.open_video` opens folders through :class:`ImageFiles`, and animated WebP images and
TIFF files of several pages through :class:`AnimatedImage`.
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

# By Pillow's names. Others start programs (EPS starts Ghostscript) or are rare and little tested.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "PPM")
_STRIP_BYTES = 2**24  # of RGB that is converted at once
_SMALLER_COPY, _MASK_PAGE = 1, 4  # bits of TIFF's NewSubfileType: pages that are no pictures of their own
_pillow_limit = threading.Lock()


def read_image(path: str | os.PathLike | BinaryIO, *, limits: MediaLimits | None = None) -> np.ndarray:
    """Read an image as the RGB that a viewer shows.

    The orientation in EXIF is applied. Greyscale, palette and CMYK images become RGB; an alpha channel is dropped, not
    composited; 16-bit greyscale is scaled by 1/257 (white stays white), and of 16-bit colour the high byte is taken.

    Args:
        path: Of a JPEG, PNG, WebP, BMP, TIFF, AVIF, GIF or PPM file, whatever its name; or an open binary file.
        limits: The largest image that is read; by default :meth:`MediaLimits.from_environment`.

    Returns:
        uint8 ``(height, width, 3)``, RGB.

    Raises:
        FileNotFoundError: there is no file at ``path``.
        VideoError: the file is empty, damaged, not an image, too large, holds several frames or pages, or has values
            that have no defined brightness (floating point, 32-bit integers beyond 65535).
    """
    name = _name_of(path)
    with open_image(path, limits=limits) as image:
        check_single(image, name)
        return image_to_rgb(image, name)


def check_single(image: Image.Image, name: str) -> None:
    """Refuse a file of several pictures, of which Pillow would show the first; ``name`` is for messages.

    Raises:
        VideoError: it is an animation, or has several pages; or it is damaged.
    """
    count = frame_count(image, name)
    if count > 1:
        raise VideoError(
            f"'{name}' holds {count} {'pages' if image.format == 'TIFF' else 'frames'}, and one image is wanted "
            "here: open it as a video, or save the one you mean as a file of its own."
        )


def image_to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """The current frame of an open image as :func:`read_image` gives it; ``name`` is for messages.

    Raises:
        VideoError: it is damaged, or its values have no defined brightness.
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
        # In strips: each conversion of Pillow's is a copy of four bytes a pixel.
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
        path: Of the file, or an open binary file, which stays the caller's to close.
        limits: The largest image that is opened; by default :meth:`MediaLimits.from_environment`.

    Raises:
        FileNotFoundError: there is no file at ``path``.
        VideoError: it is not a regular file, not an image, damaged, or has more pixels than allowed.
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
    if limits.max_pixels <= (Image.MAX_IMAGE_PIXELS or limits.max_pixels):
        try:
            return Image.open(path, formats=_supported_formats())
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            pass  # without the size, which the user needs to know
    # Pillow's own limit holds for the whole process. It is lifted for this one call, which reads the header only.
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_supported_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = before


@cache
def _supported_formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this installation of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn what Pillow raises for bytes that are no image, of which there are many kinds, into VideoError."""
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
        if isinstance(error, OSError) and error.errno is not None:  # the system's: no permission, say
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VideoError(f"'{name}' is damaged or cut short and cannot be decoded ({reason}).") from error


def _name_of(path: str | os.PathLike | BinaryIO) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "the image")


def _check_webp_size(head: bytes, name: str, limits: MediaLimits) -> None:
    """Compare the canvas of a WebP image with the limit: Pillow's decoder takes memory for it on opening."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return
    if head[12:16] == b"VP8X":
        width, height = 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        limits.check_picture(f"'{name}' is", width, height)


def frame_count(image: Image.Image, name: str) -> int:
    """How many pictures an open image holds: frames of an animation, or pages, without a TIFF's smaller copies.

    ``name`` is for messages.

    Raises:
        VideoError: the file is damaged.
    """
    if image.format == "MPO":  # a JPEG with previews, depth or a second eye's view behind it
        return 1
    with _decoding(name):
        return len(_pages(image)) if image.format == "TIFF" else getattr(image, "n_frames", 1)


def _pages(image: Image.Image) -> list[int]:
    """The pages of a TIFF that are pictures of their own."""
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
    """Whether images of this kind, as :func:`kind_of_file` names them, are read by this installation of Pillow."""
    return kind in _supported_formats()


def kind_of_file(path: Path) -> str:
    """What a file is by its first bytes: an image format of Pillow's, in capitals, or '' for anything else."""
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
    """(height, width) from an image's header alone, as displayed where that is cheap to know.

    Raises:
        VideoError: as :func:`open_image`, and where the file holds several frames.
    """
    with open_image(path, limits=limits) as image:
        if (count := frame_count(image, str(path))) > 1:
            raise VideoError(
                f"'{path}' holds {count} frames, while a folder of frames has one in each file; open it as a video of "
                "its own."
            )
        return displayed_size(image, str(path))


def displayed_size(image: Image.Image, name: str) -> tuple[int, int]:
    """(height, width) of an open image, turned by its EXIF where that is cheap to know; ``name`` is for messages.

    Raises:
        VideoError: the header is damaged.
    """
    with _decoding(name):
        width, height = image.size
        # For PNG, Pillow would decode the whole image in search of EXIF, which PNG frames do not carry in practice.
        if image.format in ("JPEG", "MPO") and image.getexif().get(0x0112, 1) >= 5:
            return width, height
        return height, width


def decode(image: Image.Image, name: str) -> None:
    """Decode an open image, to see whether it is whole and one picture; ``name`` is for messages.

    Raises:
        VideoError: it is damaged, or holds several frames or pages.
    """
    check_single(image, name)
    with _decoding(name):
        image.load()


class ImageFiles:
    """Decoder over image files. Every frame stands alone, so there is nothing to seek and nothing to hold."""

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
        # All headers now, rather than an error in the middle of tracking; this takes some 0.1 ms a file.
        for file in files[1:]:
            if (size := stored_size(file, limits)) != first:
                self._refuse(file, size, first)

    def read(self, index: int, backward: bool) -> np.ndarray:
        image = read_image(self._files[index], limits=self._limits)
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

    def time_of(self, index: int) -> None:
        """When a frame is shown; image files do not say."""

    def close(self) -> None: ...


class AnimatedImage:
    """Decoder over the frames of an animated WebP image or the pages of a TIFF file.

    Going backward in a WebP means decoding it from the beginning, so up to ``window`` frames are decoded forward and
    held, as :class:`~efficienttam_hf._video_decoder.VideoFile` does.
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
        """Frame ``index`` as uint8 ``(height, width, 3)`` RGB; ``backward`` if the reader moves that way."""
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
        with _decoding(str(self._path)):
            self._image.seek(number if self._pages is None else self._pages[number])
            picture = self._image.copy()  # turning it by its EXIF must not turn the next one
        rgb = image_to_rgb(picture, str(self._path))
        if number and rgb.shape[:2] != (self.height, self.width):
            raise VideoError(
                f"'{self._path}' changes size: frame {number} is {rgb.shape[1]}x{rgb.shape[0]} pixels, while frame 0 "
                f"is {self.width}x{self.height}. All frames of a video must have one size."
            )
        return rgb

    def frame_name(self, index: int) -> str:
        return f"{index:05d}"

    def time_of(self, index: int) -> float | None:
        """When frame ``index`` is shown, in seconds; of ``count``, when the last one ends. None of pages."""
        return self._times[index] if self._times else None

    def close(self) -> None:
        self._held.clear()
        self._image.close()


def _webp_times(path: Path, count: int) -> list[float] | None:
    """When each frame of an animated WebP begins, and after the last one when it ends, in seconds.

    From the file's ANMF chunks, as Pillow knows a frame's duration only once it is decoded. None if they are not as
    they should be.
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
