"""Pixels, masks and memories as NumPy arrays: the processors' operations without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..images import check_sizes


def resize_weights(size: int, new_size: int, antialias: bool) -> np.ndarray:
    """Return the matrix of linear interpolation along one axis, (new_size, size) float32: `weights @ values`.

    The filter is a triangle around each new pixel's centre, as in `torch.nn.functional.interpolate` (bilinear, without
    aligned corners): two pixels wide, or wider with `antialias` if a new pixel covers several pixels.
    """
    scale = size / new_size
    centres = (np.arange(new_size) + 0.5) * scale
    support = max(scale, 1.0) if antialias else 1.0
    if not antialias:
        centres = centres.clip(0.5, size - 0.5)  # beyond the last centre, only the last pixel counts
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / support
    weights = (1 - distances).clip(0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resize(maps: np.ndarray, size: Sequence[int], antialias: bool = False) -> np.ndarray:
    """Resize (..., h, w) maps to (..., *size), float32, with bilinear interpolation."""
    rows = resize_weights(maps.shape[-2], size[0], antialias)
    columns = resize_weights(maps.shape[-1], size[1], antialias)
    return rows @ (maps.astype(np.float32) @ columns.T)


def video_pixels(frame: np.ndarray, size: Sequence[int], mean: list[float], std: list[float]) -> np.ndarray:
    """Convert a video frame, uint8 (height, width, 3), to network input (3, *size), with Pillow's bicubic filter."""
    resized = Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return _normalized(np.asarray(resized, dtype=np.float32).transpose(2, 0, 1), mean, std)


def image_pixels(image: np.ndarray, size: Sequence[int], mean: list[float], std: list[float]) -> np.ndarray:
    """Convert an image, uint8 (height, width, 3), to network input (3, *size), bilinear and antialiased."""
    return _normalized(resize(image.transpose(2, 0, 1), size, antialias=True), mean, std)


def _normalized(pixels: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    means, stds = (np.array(values, dtype=np.float32)[:, None, None] for values in (mean, std))
    return (pixels / np.float32(255) - means) / stds


def pack(memory: np.ndarray, dtype: str) -> np.ndarray:
    """Convert a float32 array for storage: to float16, float32, or the 16 bits of bfloat16, which NumPy lacks."""
    if dtype != "bfloat16":
        return memory.astype(dtype)
    bits = np.ascontiguousarray(memory, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # round to the nearest, ties to even


def unpack(kept: np.ndarray, dtype: str) -> np.ndarray:
    """Convert an output of `pack` back to float32."""
    if dtype != "bfloat16":
        return kept.astype(np.float32)
    return (kept.astype(np.uint32) << 16).view(np.float32)


def masks_at_size(
    masks: list[np.ndarray],
    original_sizes: list[tuple[int, int]],
    mask_threshold: float = 0.0,
    binarize: bool = True,
    apply_non_overlapping_constraints: bool = False,
) -> list[np.ndarray]:
    """Resize the mask logits (..., h, w) of each image to its (height, width): to bool masks, or to float32 logits.

    Args:
        masks: for each image, (objects, masks, h, w), or any (..., h, w) if masks may overlap.
        original_sizes: (height, width) of each image.
        mask_threshold: a pixel with a logit above this belongs to the object.
        binarize: whether to return bool masks rather than logits.
        apply_non_overlapping_constraints: whether every pixel belongs only to the object with the highest logit.

    Raises:
        ValueError: if the numbers of sizes and images differ.
    """
    check_sizes(masks, original_sizes)
    resized = [resize(m, (int(h), int(w))) for m, (h, w) in zip(masks, original_sizes, strict=True)]
    if apply_non_overlapping_constraints:
        resized = [keep_highest(m) for m in resized]
    return [m > mask_threshold for m in resized] if binarize else resized


def keep_highest(masks: np.ndarray) -> np.ndarray:
    """Limit logits (objects, ..., height, width) to at most -10 at pixels where another object's logit is higher."""
    if len(masks) < 2:
        return masks
    rows = np.arange(len(masks)).reshape(-1, *[1] * (masks.ndim - 1))
    return np.where(masks.argmax(axis=0) == rows, masks, masks.clip(max=-10))
