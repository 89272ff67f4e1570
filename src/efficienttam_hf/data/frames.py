"""The frames of one video, from image files, a video file, or either of them inside a table.

An encoded file is a *reference* here, ``{"path": str | None, "bytes": bytes | None}``, the form in which `datasets`
stores images and videos. The constructors read nothing; a frame is decoded when it is requested.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .._media import VideoError
from ..image_io import check_single, decode, displayed_size, open_image, read_image
from ..video_io import FrameSource, open_video
from .schema import DatasetError


Reference = dict[str, Any]


class Frames(Protocol):
    """The interface of the frames of a record. ``size`` is (height, width) in pixels, from a header if possible."""

    def __len__(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def read(self, index: int) -> np.ndarray: ...

    def name(self, index: int) -> str: ...


def reference(path: str | os.PathLike) -> Reference:
    """Make a reference to a file. Its path is absolute, because tables are also read from other working directories."""
    return {"path": os.path.abspath(path), "bytes": None}


class ImageFrames:
    """Frames as images, with one file for each frame."""

    def __init__(self, references: list[Reference]) -> None:
        self.references = references

    def __len__(self) -> int:
        return len(self.references)

    @property
    def size(self) -> tuple[int, int]:
        return header_size(self.references[0], self.name(0))

    def checked_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of a frame from its header. Raises DatasetError if the file is not complete."""
        return checked_size(self.references[index], self.name(index))

    def read(self, index: int) -> np.ndarray:
        given = self.references[index]
        try:
            if given["bytes"] is None:
                return read_image(given["path"])
            return read_image(io.BytesIO(given["bytes"]))
        except (VideoError, OSError) as error:
            raise DatasetError(f"{self.name(index)} cannot be read: {error}") from error

    def name(self, index: int) -> str:
        return f"frame {index}, '{self.references[index]['path']}',"


class VideoFrames:
    """Frames of a video file, with random access.

    Args:
        reference: the reference to the file.
        count: the number of frames; by default, it is read from the file.
        size: (height, width) in pixels; by default, it is read from the file.
    """

    def __init__(self, reference: Reference, count: int | None = None, size: tuple[int, int] | None = None) -> None:
        self.reference = reference
        self._count, self._size = count, size
        self._spooled: Any = None

    def __len__(self) -> int:
        if self._count is None:
            self._count = len(self._open())
        return self._count

    @property
    def size(self) -> tuple[int, int]:
        if self._size is None:
            source = self._open()
            self._size = source.height, source.width
        return self._size

    def read(self, index: int) -> np.ndarray:
        try:
            return self._open()[index]
        except (VideoError, IndexError) as error:
            raise DatasetError(f"{self.name(index)} cannot be read: {error}") from error

    def name(self, index: int) -> str:
        return f"frame {index} of '{self.reference['path']}'"

    def _open(self) -> FrameSource:
        try:
            return _decoder(self._path())
        except (VideoError, OSError) as error:
            raise DatasetError(f"The video '{self.reference['path']}' cannot be read: {error}") from error

    def _path(self) -> str:
        if self.reference["bytes"] is None:
            return self.reference["path"]
        if self._spooled is None:  # decoders need a file; it is deleted with the record
            suffix = Path(self.reference["path"] or "video.mp4").suffix
            self._spooled = tempfile.NamedTemporaryFile(suffix=suffix)  # noqa: SIM115
            self._spooled.write(self.reference["bytes"])
            self._spooled.flush()
        return self._spooled.name

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_spooled": None}


_opened = threading.local()


def _decoder(path: str) -> FrameSource:
    """Return the one open decoder of this thread. Successive frames are mostly of the same video."""
    # A forked process shares the file position with its parent, so it opens its own decoder.
    key = (os.getpid(), path, os.stat(path).st_mtime_ns)
    if getattr(_opened, "key", None) != key:
        if (previous := getattr(_opened, "source", None)) is not None and _opened.key[0] == key[0]:
            previous.close()
        _opened.key = _opened.source = None
        _opened.source = open_video(path, prefetch=0, threads=1)
        _opened.key = key
    return _opened.source


def header_size(given: Reference, name: str) -> tuple[int, int]:
    """Return the displayed (height, width) of an image, from its header."""
    try:
        with _open_image(given) as image:
            check_single(image, name)
            return displayed_size(image, name)
    except (VideoError, OSError) as error:
        raise DatasetError(f"{name} cannot be read: {error}") from error


def checked_size(given: Reference, name: str) -> tuple[int, int]:
    """Like :func:`header_size`, with a check that the file is complete: it is decoded if its end marker is missing."""
    size = header_size(given, name)
    if given["bytes"] is None:
        with open(given["path"], "rb") as file:
            file.seek(-min(12, os.path.getsize(given["path"])), os.SEEK_END)
            end = file.read()
    else:
        end = given["bytes"][-12:]
    if b"\xff\xd9" not in end and b"IEND" not in end:  # the ends of JPEG and PNG
        try:
            with _open_image(given) as image:
                decode(image, name)
        except (VideoError, OSError) as error:
            raise DatasetError(f"{name} is damaged or cut short: {error}") from error
    return size


def _open_image(given: Reference) -> Image.Image:
    return open_image(given["path"] if given["bytes"] is None else io.BytesIO(given["bytes"]))
