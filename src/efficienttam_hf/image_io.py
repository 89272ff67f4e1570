"""Images in: one file as RGB, and a folder of numbered files as the frames of a video.

Photos come in many kinds (palettes, 16 bits, turned by EXIF) and folders with gaps and strays. All of that is settled
here, with errors that name the file, so that whoever reads gets uint8 RGB in the right order and nothing else.
:func:`efficienttam_hf.video_io.open_video` opens folders through :class:`ImageFiles`.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ._media import VideoError


__all__ = ["read_image"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


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
    with open_image(path) as image:
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


def open_image(path: Path) -> Image.Image:
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
    with open_image(path) as image:
        width, height = image.size
        # For PNG, Pillow would decode the whole image in search of EXIF, which PNG frames do not carry in practice.
        if image.format == "JPEG" and image.getexif().get(0x0112, 1) >= 5:
            return width, height
        return height, width


def list_frames(folder: Path) -> list[Path]:
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


class ImageFiles:
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
