"""Reads and writes masks: object ids as palette PNGs as in DAVIS, and single masks in COCO run-length encoding.

Datasets and evaluation tools use these two forms. A pixel of a PNG belongs to at most one object, while run-length
masks of different objects may overlap. :mod:`efficienttam_hf.mask_values` converts the values of an image to object
ids, for every reader of masks. pycocotools encodes masks and is imported where it is used. Masks are decoded here,
because files may be damaged or hostile.
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


__all__ = ["MaskCoding", "box_and_area", "davis_palette", "decode_rle", "decompress_counts", "encode_rle"]
__all__ += ["read_indexed_png", "read_mask_pixels", "write_indexed_png"]

# The largest mask that is decoded, in pixels. Run lengths of a few bytes can state any size.
MAX_MASK_PIXELS = 2**28


def write_indexed_png(path: str | os.PathLike, labels: np.ndarray) -> None:
    """Write object ids as a palette PNG in the colours of DAVIS, atomically.

    Args:
        path: the path of the file. Missing folders are created.
        labels: integers or bool ``(height, width)`` from 0 (background) to 255.

    Raises:
        VideoError: if the shape or dtype is another one, or values are outside 0 to 255.
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

    - palette: the indices, unless the colours of the palette show that it was reordered;
    - greyscale: the values; an image with only 0 and 255 (65535 with 16 bits) is a binary mask (DAVIS 2016), which
      gives 0 and 1;
    - colour: grey pixels as in greyscale, or the ids of the colours of the DAVIS palette.

    Images whose values cannot be ids are refused: soft edges, lossy files, levels of grey, other colours, an alpha
    channel that contains the mask. Then `coding` must define the meaning of the values.

    Args:
        path: the path of the image.
        coding: how values are converted to ids; `None` if they are ids.

    Returns:
        uint8 ``(height, width)``, 0 in the background.

    Raises:
        FileNotFoundError: if there is no file at ``path``.
        VideoError: if it is not an image, is damaged, or has values that cannot be object ids. The message says how to
            read it.
    """
    return labels_of(read_mask_pixels(path), coding)


def read_mask_pixels(path: str | os.PathLike, size: tuple[int, int] | None = None) -> MaskPixels:
    """Decode an annotation image without interpreting its values.

    Args:
        path: the path of the image.
        size: the expected (height, width), which is compared before the image is decoded; None accepts any size.

    Raises:
        FileNotFoundError: if there is no file at ``path``.
        VideoError: if it is not an image, is damaged or too large, has several frames, or has another size.
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
    """Return the values, palette and alpha channel of an open annotation image."""
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
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(64)


def import_coco_mask() -> ModuleType:
    """Import pycocotools' functions on masks, or raise ImportError with the name of the extra to install."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("COCO run-length masks need pycocotools: pip install efficienttam-hf[video].") from error
    return mask


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask in COCO's compressed run-length encoding, as JSON values.

    Args:
        mask: ``(height, width)``, bool, or integers that are 0 outside the object.

    Returns:
        ``{"size": [height, width], "counts": str}``.

    Raises:
        VideoError: if the shape or dtype is another one.
        ImportError: if pycocotools is not installed.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise VideoError(
            f"A mask must be bool of shape (height, width), got {mask.dtype} {mask.shape}; threshold logits at 0 first."
        )
    rle = import_coco_mask().encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """Decode a COCO run-length encoding.

    Args:
        rle: a dictionary with ``size`` and ``counts``: compressed (str or bytes) or not (a list of numbers).

    Returns:
        bool ``(height, width)``.

    Raises:
        VideoError: if it is not such an encoding, or its runs do not fill its size.
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
    """Check the (height, width) that run lengths state, and return it.

    Raises:
        TypeError: if it is not two whole numbers.
        ValueError: if it is not two values, or the mask is empty or has more than `MAX_MASK_PIXELS` pixels.
    """
    height, width = size
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in (height, width)):
        raise TypeError(f"its size must be two whole numbers, got {shown(size)}")
    if height < 1 or width < 1 or int(height) * int(width) > MAX_MASK_PIXELS:
        raise ValueError(f"its size is {width}x{height}; masks of 1 to {MAX_MASK_PIXELS} pixels are read")
    return int(height), int(width)


def checked_rle(
    rle: Any, size: tuple[int, int] | None, where: str, error: type[ValueError]
) -> tuple[dict[str, Any], int]:
    """Check COCO run lengths from a file and compress them, without decoding a pixel.

    Args:
        rle: ``{"size": [height, width], "counts": text or list}``.
        size: (height, width) that the mask must have; `None` if it is not known.
        where: the name or place of the mask, for the message.
        error: the type of error that is raised, a subclass of `ValueError`.

    Returns:
        ``({"size": [height, width], "counts": str}, pixels of the mask)``.

    Raises:
        ValueError: (as `error`) if the run lengths are damaged, or of another size.
    """
    try:
        height, width = mask_size(rle["size"])
        if size is not None and (height, width) != tuple(size):
            raise error(f"{where} is of {width}x{height} pixels, but its frame of {size[1]}x{size[0]}.")
        counts = rle["counts"]
        runs = checked_runs(counts, (height, width))
    except error:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as problem:
        raise error(
            f"{where} is not a COCO run-length mask ({reason_of(problem)}); "
            f'{{"size": [height, width], "counts": ...}} is expected.'
        ) from problem
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    elif not isinstance(counts, str):
        rle = {"size": [height, width], "counts": runs.tolist()}
        counts = import_coco_mask().frPyObjects(rle, height, width)["counts"].decode("ascii")
    return {"size": [height, width], "counts": counts}, int(runs[1::2].sum())


def checked_runs(counts: str | bytes | list[int] | tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """Check run lengths and return them.

    Args:
        counts: compressed counts, or a list of the lengths of the alternating runs of 0 and 1.
        size: (height, width) of the mask, which the runs must fill exactly.

    Returns:
        int64, the lengths.

    Raises:
        ValueError, TypeError, OverflowError: if the counts are damaged, or their sum is wrong.
    """
    pixels = size[0] * size[1]
    # At most one of two successive runs is empty, and a number has at most seven characters.
    if isinstance(counts, str | bytes | list | tuple) and len(counts) > 7 * (2 * pixels + 2):
        raise ValueError(f"its counts are of length {len(counts)}, more than {size[1]}x{size[0]} pixels can have")
    if isinstance(counts, str | bytes):
        runs = decompress_counts(counts)
    else:
        # This is checked before NumPy converts the list, because NumPy would walk through a nested list.
        whole = isinstance(counts, list | tuple) and all(isinstance(n, int | np.integer) for n in counts)
        runs = np.asarray(counts) if whole else np.empty((0, 0))
        if runs.ndim != 1 or (runs.size and runs.dtype.kind not in "iu"):
            raise TypeError("its counts must be text or a list of whole numbers")
    # Each run is compared first, because the sum of runs that are too long could overflow to the right number.
    if (runs < 0).any() or (runs > pixels).any():
        raise ValueError(f"it has runs that are negative or longer than its {size[1]}x{size[0]} pixels")
    runs = runs.astype(np.int64)
    if runs.sum() != pixels:
        raise ValueError(f"its runs add up to {runs.sum()} pixels, but {size[1]}x{size[0]} are {pixels}")
    return runs


def mask_of_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Decode checked runs, which go down the columns, to bool ``(height, width)``."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def decompress_counts(counts: str | bytes) -> np.ndarray:
    """Decode COCO's compressed counts.

    Returns:
        int64, the lengths of the alternating runs of 0 and 1.

    Raises:
        ValueError: if the counts are damaged.
    """
    characters = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, dtype=np.uint8)
    values = characters.astype(np.int64) - 48
    if not len(values) or (values < 0).any() or (values > 63).any() or values[-1] & 32:
        raise ValueError("its counts are empty, cut short or hold characters of no meaning")
    last = (values & 32) == 0  # bit 5 marks that the number continues; the lowest bits come first
    number = np.cumsum(last) - last
    place = np.arange(len(values)) - np.append(0, np.flatnonzero(last)[:-1] + 1)[number]
    if place.max() > 6:
        raise ValueError("its counts hold a number beyond 32 bits")
    runs = np.bincount(number, weights=(values & 31) << (5 * place)).astype(np.int64)
    runs -= np.where(values[last] & 16, 1 << (5 * (place[last] + 1)), 0)  # bit 4 of the last character is the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def box_and_area(mask: np.ndarray) -> dict[str, Any]:
    """COCO's `bbox` and `area` of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return {"area": 0, "bbox": [0, 0, 0, 0]}
    x, y = int(columns[0]), int(rows[0])
    return {"area": int(mask.sum()), "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]}
