"""Surfaces: procedural patterns, crops of photographs, and functions that combine them.

A procedural pattern is one channel that a random palette colours. This is fast and gives hundreds of kinds of surfaces
from a few lines each. All surfaces are uint8 (height, width, 3), RGB.
"""

from __future__ import annotations

import math

import cv2
import numpy as np


__all__ = ["blend_regions", "palette", "photo_crop", "procedural", "recolour", "smooth_noise"]


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: float, octaves: int = 1) -> np.ndarray:
    """Return noise with about `cells` bumps along the longer side, float32 (height, width) from 0 to 1.

    Args:
        rng: the source of random numbers.
        height, width: the size in pixels.
        cells: the number of bumps of the first octave.
        octaves: the number of layers; each is finer and weaker than the one before.
    """
    total = np.zeros((height, width), np.float32)
    strength = 1.0
    for _ in range(octaves):
        across = [max(2, min(side, round(cells * side / max(height, width)) + 1)) for side in (height, width)]
        coarse = rng.random(across, dtype=np.float32)
        total += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, strength = cells * 2.3, strength * 0.55
    return cv2.normalize(total, np.empty_like(total), 0, 1, cv2.NORM_MINMAX)


def _coordinates(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rotated coordinates from about -1 to 1, sometimes bent a little by noise: two float32 (height, width)."""
    angle = rng.uniform(0, math.pi)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    u = (math.cos(angle) * x + math.sin(angle) * y).astype(np.float32)
    v = (math.cos(angle) * y - math.sin(angle) * x).astype(np.float32)
    bend = rng.uniform(0, 0.5) * rng.integers(0, 2)
    if bend:
        u += bend * smooth_noise(rng, height, width, 3)
        v += bend * smooth_noise(rng, height, width, 3)
    return u, v


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a cloudy pattern."""
    return smooth_noise(rng, height, width, rng.uniform(1.5, 12), 4)


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a pattern of stripes."""
    u, _ = _coordinates(rng, height, width)
    wave = np.sin(u * rng.uniform(6, 40) + rng.uniform(0, 6))
    return 0.5 + 0.5 * np.clip(wave * rng.uniform(1, 6), -1, 1)


def _checks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a pattern of checks."""
    u, v = _coordinates(rng, height, width)
    frequency = rng.uniform(5, 25)
    wave = np.sin(u * frequency) + np.sin(v * frequency * rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        wave = np.sin(u * frequency) * np.sin(v * frequency)
    return 0.5 + 0.5 * np.clip(wave * rng.uniform(1, 6), -1, 1)


def _cells(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return spots around random points, or the cells whose centres they are (a Voronoi diagram)."""
    count = int(rng.integers(8, 60))
    seeds = np.full((height, width), 255, np.uint8)
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    if rng.random() < 0.5:
        distance = cv2.distanceTransform(seeds, cv2.DIST_L2, 3)
        radius = rng.uniform(0.15, 0.45) * math.sqrt(height * width / count)
        return np.clip(distance - radius, 0, 1.5) / 1.5
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    return rng.random(count + 1, dtype=np.float32)[labels]


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a linear or radial gradient."""
    u, v = _coordinates(rng, height, width)
    across = np.hypot(u, v) if rng.random() < 0.3 else u
    return np.clip(0.5 + 0.4 * across, 0, 1)


PATTERNS = (_noise, _noise, _stripes, _checks, _cells, _gradient)


def palette(rng: np.random.Generator) -> np.ndarray:
    """Return 256 colours that change between two to five random ones, uint8 (256, 3)."""
    count = int(rng.integers(2, 6))
    # Most real things have weak colours.
    grey, tint = rng.uniform(30, 225), rng.normal(0, 1, 3) * rng.uniform(2, 60)
    light = rng.normal(0, rng.uniform(15, 90), (count, 1))
    colours = np.clip(grey + tint + light + rng.normal(0, rng.uniform(2, 35), (count, 3)), 0, 255)
    steps = np.linspace(0, count - 1, 256)
    return np.stack([np.interp(steps, np.arange(count), colours[:, c]) for c in range(3)], axis=1).astype(np.uint8)


def procedural(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a surface with a random pattern, and grain or blotches over it."""
    pattern = PATTERNS[rng.integers(len(PATTERNS))](rng, height, width)
    grain = smooth_noise(rng, height, width, rng.uniform(3, 40), 3) - 0.5
    pattern = (pattern * 215 + 20 + grain * rng.uniform(0, 120)).clip(0, 255).astype(np.uint8)
    return cv2.applyColorMap(pattern, palette(rng)[:, None])


def photo_crop(
    rng: np.random.Generator, photo: np.ndarray, height: int, width: int, part: tuple[float, float]
) -> np.ndarray:
    """Return a random crop of a photograph, sometimes mirrored: uint8 (height, width, 3).

    Args:
        rng: the source of random numbers.
        photo: uint8 (H, W, 3).
        height, width: the size of the result in pixels.
        part: the range of the crop's size relative to the largest crop with these proportions.
    """
    available_height, available_width = photo.shape[:2]
    scale = rng.uniform(*part) * min(available_height / height, available_width / width)
    crop_height, crop_width = max(2, int(height * scale)), max(2, int(width * scale))
    top = int(rng.integers(0, max(1, available_height - crop_height + 1)))
    left = int(rng.integers(0, max(1, available_width - crop_width + 1)))
    crop = photo[top : top + crop_height, left : left + crop_width, :3]
    # Pixels are skipped first, because averaging all pixels of a much larger crop would take most of a clip's time.
    step = max(1, int(scale / 2))
    how = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    surface = cv2.resize(crop[::step, ::step], (width, height), interpolation=how)
    return cv2.flip(surface, 1) if rng.random() < 0.5 else surface


def recolour(rng: np.random.Generator, surface: np.ndarray, strength: float = 0.25) -> np.ndarray:
    """Change gains and offsets of the channels at random, and sometimes exchange channels."""
    if rng.random() < 0.15:
        surface = np.ascontiguousarray(surface[..., rng.permutation(3)])
    gain = rng.uniform(1 - strength, 1 + strength) * rng.uniform(1 - strength / 2, 1 + strength / 2, 3)
    offset = rng.uniform(-40, 40) * strength
    table = np.arange(256, dtype=np.float32)[:, None] * gain + offset
    return cv2.LUT(surface, table.clip(0, 255).astype(np.uint8)[None])


def blend_regions(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Combine two surfaces of one size to one, in bands or patches with a smooth border."""
    height, width = first.shape[:2]
    if rng.random() < 0.6:
        u = np.broadcast_to(np.linspace(0, 1, height, dtype=np.float32)[:, None], (height, width))
        level = u + 0.15 * smooth_noise(rng, height, width, 3)
        where = level > rng.uniform(0.3, 0.8)
    else:
        where = smooth_noise(rng, height, width, rng.uniform(1.5, 6)) > rng.uniform(0.4, 0.6)
    return np.where(where[..., None], first, second)
