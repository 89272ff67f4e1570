"""Pixels, masks and memories as NumPy arrays: the processors' operations without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..images import check_sizes


def resize_weights(size: int, new_size: int, antialias: bool) -> np.ndarray:
    """Linear interpolation along one axis as a matrix, (new_size, size) float32: `weights @ values`.

    A triangle filter around each new pixel's centre, as `torch.nn.functional.interpolate` has it (bilinear, without
    aligned corners): two pixels wide, or with `antialias` as wide as what a new pixel covers.
    """
    scale = size / new_size
    centres = (np.arange(new_size) + 0.5) * scale
    support = max(scale, 1.0) if antialias else 1.0
    if not antialias:
        centres = centres.clip(0.5, size - 0.5)  # beyond the last centre, the last pixel counts alone
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / support
    weights = (1 - distances).clip(0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resize(maps: np.ndarray, size: Sequence[int], antialias: bool = False) -> np.ndarray:
    """(..., h, w) maps to (..., *size), float32, bilinearly."""
    rows = resize_weights(maps.shape[-2], size[0], antialias)
    columns = resize_weights(maps.shape[-1], size[1], antialias)
    return rows @ (maps.astype(np.float32) @ columns.T)


def video_pixels(frame: np.ndarray, size: Sequence[int], mean: list[float], std: list[float]) -> np.ndarray:
    """A uint8 (height, width, 3) frame to (3, *size) for the network, as for videos: by Pillow's bicubic filter."""
    resized = Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return _normalized(np.asarray(resized, dtype=np.float32).transpose(2, 0, 1), mean, std)


def image_pixels(image: np.ndarray, size: Sequence[int], mean: list[float], std: list[float]) -> np.ndarray:
    """A uint8 (height, width, 3) image to (3, *size) for the network, as for images: bilinear, antialiased."""
    return _normalized(resize(image.transpose(2, 0, 1), size, antialias=True), mean, std)


def _normalized(pixels: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    means, stds = (np.array(values, dtype=np.float32)[:, None, None] for values in (mean, std))
    return (pixels / np.float32(255) - means) / stds


def pack(memory: np.ndarray, dtype: str) -> np.ndarray:
    """A float32 array as it is kept: float16, float32, or bfloat16 (which NumPy does not know) as its 16 bits."""
    if dtype != "bfloat16":
        return memory.astype(dtype)
    bits = np.ascontiguousarray(memory, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # to the nearest, ties to even


def unpack(kept: np.ndarray, dtype: str) -> np.ndarray:
    """The float32 array of what `pack` made."""
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
    """Mask logits (..., h, w) of each image to its (height, width): bool, or float32 logits with `binarize=False`.

    Args:
        masks: for each image (objects, masks, h, w), or of any shape where pixels may be shared.
        original_sizes: for each image (height, width).
        mask_threshold: logit above which a pixel is foreground.
        binarize: whether to return bool masks, or logits.
        apply_non_overlapping_constraints: whether every pixel is left to the object with the highest logit.

    Raises:
        ValueError: for another number of sizes than of images.
    """
    check_sizes(masks, original_sizes)
    resized = [resize(m, (int(h), int(w))) for m, (h, w) in zip(masks, original_sizes, strict=True)]
    if apply_non_overlapping_constraints:
        resized = [keep_highest(m) for m in resized]
    return [m > mask_threshold for m in resized] if binarize else resized


def keep_highest(masks: np.ndarray) -> np.ndarray:
    """(objects, ..., height, width) logits, at most -10 where another object's is higher."""
    if len(masks) < 2:
        return masks
    rows = np.arange(len(masks)).reshape(-1, *[1] * (masks.ndim - 1))
    return np.where(masks.argmax(axis=0) == rows, masks, masks.clip(max=-10))
