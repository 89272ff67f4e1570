"""A short synthetic video with exact masks: a textured shape that moves and turns over a textured background.

For trying a tracker out where there is no video at hand. Everything follows from the seed. Only NumPy and Pillow are
needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image


__all__ = ["SyntheticClip", "make_clip"]


@dataclass
class SyntheticClip:
    """A clip and where its object is.

    Attributes:
        frames: uint8 (num_frames, height, width, 3), RGB.
        masks: bool (num_frames, height, width).
        click: (x, y) in pixels, on the object in the first frame.
    """

    frames: np.ndarray
    masks: np.ndarray
    click: tuple[float, float]


def make_clip(num_frames: int = 24, width: int = 320, height: int = 240, seed: int = 0) -> SyntheticClip:
    """Draw a clip.

    Args:
        num_frames: at least 1.
        width, height: in pixels, at least 32.
        seed: of textures, shape and path.

    Raises:
        ValueError: for sizes that are too small.
    """
    if num_frames < 1 or min(width, height) < 32:
        raise ValueError(f"A clip has at least 1 frame of 32x32 pixels, got {num_frames} of {width}x{height}.")
    rng = np.random.RandomState(seed)
    background = _texture(rng, height, width, np.array([70, 110, 90]))
    side = min(width, height)
    surface = _texture(rng, side, side, np.array([205, 130, 60]))
    lobes, phase, turn = rng.randint(3, 6), rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.0) * rng.choice((-1, 1))
    radius = 0.17 * side
    y, x = np.mgrid[:height, :width]

    frames = np.empty((num_frames, height, width, 3), np.uint8)
    masks = np.empty((num_frames, height, width), bool)
    centres = []
    for i in range(num_frames):
        progress = i / max(1, num_frames - 1)
        # From left to right on an arc that keeps the shape inside the frame.
        cx = width * (0.25 + 0.5 * progress)
        cy = height * (0.6 - 0.25 * math.sin(math.pi * progress))
        centres.append((cx, cy))
        angle = turn * progress
        dx, dy = x - cx, y - cy
        edge = radius * (1 + 0.18 * np.cos(lobes * (np.arctan2(dy, dx) - angle) + phase))
        masks[i] = np.hypot(dx, dy) < edge
        # The texture turns with the shape.
        u = np.cos(angle) * dx + np.sin(angle) * dy + side / 2
        v = -np.sin(angle) * dx + np.cos(angle) * dy + side / 2
        moved = surface[v.astype(int).clip(0, side - 1), u.astype(int).clip(0, side - 1)]
        frames[i] = np.where(masks[i][..., None], moved, background)
    return SyntheticClip(frames, masks, (round(centres[0][0], 1), round(centres[0][1], 1)))


def _texture(rng: np.random.RandomState, height: int, width: int, colour: np.ndarray) -> np.ndarray:
    """Coarse and fine noise around a colour, uint8 (height, width, 3)."""
    total = np.zeros((height, width, 3))
    for cell, strength in ((32, 45.0), (8, 25.0)):
        coarse = rng.randint(0, 256, (height // cell + 2, width // cell + 2, 3)).astype(np.uint8)
        noise = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(noise, dtype=np.float64) / 127.5 - 1) * strength
    return (colour + total).clip(0, 255).astype(np.uint8)
