"""Reads and writes masks: object ids as palette PNGs as in DAVIS, and single masks in COCO run-length encoding.

These are the two forms that datasets and evaluation tools of the field read: in a PNG a pixel belongs to one object,
while run-length masks of different objects may overlap. How the values of an image become object ids is decided in
:mod:`efficienttam_hf.mask_values`, for every reader of masks alike. pycocotools encodes; decoding is done here, as what
comes from files may be damaged or hostile. pycocotools is imported where it is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from ._media import VideoError
from .atomic_file import atomic_path
from .image_io import check_single, open_image
from .mask_values import MaskCoding, MaskPixels, davis_palette, labels_of
from .safe_names import reason_of, shown


__all__ = ["MaskCoding", "davis_palette", "decode_rle", "decompress_counts", "encode_rle", "read_indexed_png"]
__all__ += ["read_mask_pixels", "write_indexed_png"]

# The largest mask that is decoded, in pixels: run lengths of a few bytes may claim any size.
MAX_MASK_PIXELS = 2**28


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


def read_indexed_png(path: str | os.PathLike, coding: MaskCoding | None = None) -> np.ndarray:
    """Read object ids from an annotation image.

    - palette: the indices, unless the palette's colours show that it was sorted anew;
    - greyscale: the values, but only 0 and 255 (of 16 bits, 65535) is a binary mask (DAVIS-2016) and gives 0 and 1;
    - colour: grey pixels as greyscale, or the colours of the DAVIS palette as their ids.

    What cannot be ids is refused: soft edges, lossy files, levels of grey, other colours, an alpha channel that holds
    the mask. `coding` says what the values mean then.

    Args:
        path: of the image.
        coding: how values become ids; `None` where they are ids.

    Returns:
        uint8 ``(height, width)``, 0 in the background.

    Raises:
        FileNotFoundError: there is no file at ``path``.
        VideoError: not an image, damaged, or values that cannot be object ids; the message says how to read it.
    """
    return labels_of(read_mask_pixels(path), coding)


def read_mask_pixels(path: str | os.PathLike, size: tuple[int, int] | None = None) -> MaskPixels:
    """Decode an annotation image, without deciding what its values mean.

    Args:
        path: of the image.
        size: (height, width) that it must have, which is compared before anything is decoded.

    Raises:
        FileNotFoundError: there is no file at ``path``.
        VideoError: not an image, damaged, too large, of several frames, or of another size.
    """
    path = Path(path)
    try:
        with open_image(path) as image:
            width, height = image.size
            if size is not None and (height, width) != tuple(size):
                raise VideoError(f"The mask '{path}' is {width}x{height} pixels, but its frame is {size[1]}x{size[0]}.")
            if width * height > MAX_MASK_PIXELS:
                raise VideoError(f"'{path}' has {width}x{height} pixels; masks of up to {MAX_MASK_PIXELS} are read.")
            check_single(image, str(path))
            return _pixels_of(image, path)
    except Image.DecompressionBombError as error:
        raise VideoError(f"'{path}' is too large to be decoded as a mask: {error}") from error


def _pixels_of(image: Image.Image, path: Path) -> MaskPixels:
    mode, lossy = image.mode, image.format in ("JPEG", "MPO") or (image.format == "WEBP" and b"VP8L" not in _head(path))
    transparency = image.info.get("transparency")
    try:
        palette = alpha = None
        if mode == "P":
            values = np.array(image)
            palette = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
            palette = np.concatenate([palette, np.zeros((256 - len(palette), 3), np.uint8)])
            if transparency is not None:
                alpha = np.array(image.convert("RGBA"))[..., 3]
        elif mode in ("1", "L") or mode.startswith("I"):
            values = np.array(image)
        elif mode == "F":
            raise VideoError(f"'{path}' holds floating-point values, not object ids; save whole numbers of 8 bits.")
        else:
            if mode in ("LA", "La", "PA", "RGBA", "RGBa") or transparency is not None:
                alpha = np.array(image.convert("RGBA"))[..., 3]
            values = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, EOFError) as error:
        raise VideoError(f"'{path}' is damaged or cut short and cannot be decoded ({error}).") from error
    return MaskPixels(str(path), mode, values, palette, alpha, lossy)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def import_coco_mask() -> ModuleType:
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
    rle = import_coco_mask().encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """The mask of a COCO run-length encoding: compressed (str or bytes counts) or not (a list of counts).

    Returns:
        bool ``(height, width)``.

    Raises:
        VideoError: not such an encoding, or its runs do not fill its size.
    """
    try:
        height, width = mask_size(rle["size"])
        runs = checked_runs(rle["counts"], (height, width))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise VideoError(
            f"Not a COCO run-length mask ({reason_of(error)}); "
            f'{{"size": [height, width], "counts": str or list}} is accepted.'
        ) from error
    return mask_of_runs(runs, height, width)


def mask_size(size: Any) -> tuple[int, int]:
    """(height, width) as run lengths state it, checked.

    Raises:
        ValueError, TypeError: not two whole numbers, or a mask of more than `MAX_MASK_PIXELS`.
    """
    height, width = size
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in (height, width)):
        raise TypeError(f"its size must be two whole numbers, got {shown(size)}")
    if height < 1 or width < 1 or int(height) * int(width) > MAX_MASK_PIXELS:
        raise ValueError(f"its size is {width}x{height}; masks of 1 to {MAX_MASK_PIXELS} pixels are read")
    return int(height), int(width)


def checked_runs(counts: str | bytes | list[int] | tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """Lengths of the runs of 0 and 1 in turn, int64, which fill a mask of (height, width) exactly.

    Raises:
        ValueError, TypeError, OverflowError: damaged counts, or runs that do not add up.
    """
    pixels = size[0] * size[1]
    # Of a run in two at most one is empty, and seven characters are the longest number.
    if isinstance(counts, str | bytes | list | tuple) and len(counts) > 7 * (2 * pixels + 2):
        raise ValueError(f"its counts are of length {len(counts)}, more than {size[1]}x{size[0]} pixels can have")
    if isinstance(counts, str | bytes):
        runs = decompress_counts(counts)
    else:
        # Before anything is made of it: what is nested would be gone through to the end.
        whole = isinstance(counts, list | tuple) and all(isinstance(n, int | np.integer) for n in counts)
        runs = np.asarray(counts) if whole else np.empty((0, 0))
        if runs.ndim != 1 or (runs.size and runs.dtype.kind not in "iu"):
            raise TypeError("its counts must be text or a list of whole numbers")
    # Each run is compared first: the sum of runs that are too long could wrap around to the right number.
    if (runs < 0).any() or (runs > pixels).any():
        raise ValueError(f"it has runs that are negative or longer than its {size[1]}x{size[0]} pixels")
    runs = runs.astype(np.int64)
    if runs.sum() != pixels:
        raise ValueError(f"its runs add up to {runs.sum()} pixels, but {size[1]}x{size[0]} are {pixels}")
    return runs


def mask_of_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask of checked runs, which go down the columns: bool ``(height, width)``."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def decompress_counts(counts: str | bytes) -> np.ndarray:
    """Lengths of the runs of 0 and 1 in turn, int64, from COCO's compressed counts.

    Raises:
        ValueError: the counts are damaged.
    """
    characters = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, dtype=np.uint8)
    values = characters.astype(np.int64) - 48
    if not len(values) or (values < 0).any() or (values > 63).any() or values[-1] & 32:
        raise ValueError("its counts are empty, cut short or hold characters of no meaning")
    last = (values & 32) == 0  # bit 5 says that more of this number follows, lowest bits first
    number = np.cumsum(last) - last
    place = np.arange(len(values)) - np.append(0, np.flatnonzero(last)[:-1] + 1)[number]
    if place.max() > 6:
        raise ValueError("its counts hold a number beyond 32 bits")
    runs = np.bincount(number, weights=(values & 31) << (5 * place)).astype(np.int64)
    runs -= np.where(values[last] & 16, 1 << (5 * (place[last] + 1)), 0)  # bit 4 of the highest is the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
