"""Outlines for objects that are not cutouts, as coverage (alpha) with smooth edges.

An outline is uint8 (height, width), 0 outside and 255 inside, cropped to its bounding box. Its longer side has about
the requested number of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np


__all__ = ["bar", "blob", "box", "disc", "foliage", "limb", "outline"]


def _fill(contours: list[np.ndarray], side: int, union: bool = False) -> np.ndarray:
    """Fill contours, float (n, 2) in any units, so that the longer side of their bounding box has `side` pixels.

    With `union`, a point is inside if it is in any contour; otherwise, if it is in an odd number of contours.
    """
    points = np.concatenate(contours)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 2 * side / float((high - low).max())
    width, height = (int(extent) for extent in np.ceil((high - low) * scale / 2) + 1)
    # The shape is drawn at twice the size and then averaged, so that pixels of the edge get their coverage.
    canvas = np.zeros((2 * height, 2 * width), np.uint8)
    drawn = [np.round((contour - low) * scale).astype(np.int32) for contour in contours]
    for group in [[contour] for contour in drawn] if union else [drawn]:
        cv2.fillPoly(canvas, group, 255)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def blob_contour(rng: np.random.Generator, roughness: float = 0.35, points: int = 72) -> np.ndarray:
    """Return a smooth closed curve around the origin, float (points, 2)."""
    angle = np.linspace(0, 2 * math.pi, points, endpoint=False)
    orders = np.arange(2, 8)
    strengths = rng.normal(0, roughness, len(orders)) / orders
    radius = 1 + (strengths[:, None] * np.cos(orders[:, None] * angle + rng.uniform(0, 7, (len(orders), 1)))).sum(0)
    radius = np.maximum(radius, 0.25)
    turned = angle + rng.uniform(0, math.pi)
    return np.stack([radius * np.cos(turned), radius * np.sin(turned) * rng.uniform(0.4, 1)], axis=1)


def blob(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a smooth round shape."""
    return _fill([blob_contour(rng, rng.uniform(0.1, 0.8))], side)


def polygon(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a polygon of three to eight corners."""
    count = int(rng.integers(3, 9))
    angle = 2 * math.pi * (np.arange(count) + rng.uniform(-0.35, 0.35, count)) / count
    radius = rng.uniform(0.5, 1, count)
    return _fill([np.stack([radius * np.cos(angle), radius * np.sin(angle) * rng.uniform(0.5, 1)], axis=1)], side)


def box(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a rectangle with rounded corners (a superellipse)."""
    angle = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    power = rng.uniform(0.1, 0.6)
    x, y = (np.sign(wave) * np.abs(wave) ** power for wave in (np.cos(angle), np.sin(angle)))
    return _fill([np.stack([x, y * rng.uniform(0.3, 1)], axis=1)], side)


def ring(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a smooth round shape with a hole."""
    outer = blob_contour(rng, 0.15)
    return _fill([outer, outer * rng.uniform(0.4, 0.75) + rng.uniform(-0.08, 0.08, 2)], side)


def tapered(centre_line: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return the outline of a limb with a round end.

    Args:
        centre_line: float (n, 2).
        start, end: the half width at the start and at the end of the line.
    """
    along = np.gradient(centre_line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * np.linspace(start, end, len(along))[:, None]
    turn = np.linspace(0, math.pi, 8)[1:-1, None]
    cap = centre_line[-1] + np.cos(turn) * across[-1] + np.sin(turn) * along[-1] * end
    return np.concatenate([centre_line + across, cap, (centre_line - across)[::-1]])


def branching(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a body with three to seven bent limbs."""
    count = int(rng.integers(3, 8))
    pieces = [blob_contour(rng, 0.2) * rng.uniform(0.25, 0.45)]
    steps = np.linspace(0, 1, 12)
    for i in range(count):
        angle = 2 * math.pi * (i + rng.uniform(-0.35, 0.35)) / count + rng.uniform(-1.2, 1.2) * steps
        reach = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], axis=1), axis=0) / 12 * rng.uniform(0.6, 1.2)
        pieces.append(tapered(reach, rng.uniform(0.1, 0.22), rng.uniform(0.03, 0.12)))
    return _fill(pieces, side, union=True)


def foliage(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return many overlapping leaves."""
    pieces = []
    for _ in range(int(rng.integers(8, 26))):
        pieces.append(blob_contour(rng, 0.3, 16) * rng.uniform(0.1, 0.35) + rng.normal(0, 0.45, 2))
    return _fill(pieces, side, union=True)


def bar(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a post or a rail."""
    return np.full((side, max(3, int(side * rng.uniform(0.05, 0.25)))), 255, np.uint8)


def limb(side: int, start: float, end: float) -> np.ndarray:
    """Return a straight limb that hangs down.

    Its joints are at the ends, in the middle of the rounding.

    Args:
        side: the length in pixels.
        start, end: the half widths at its ends relative to the length.
    """
    middle = np.stack([np.zeros(10), np.linspace(0, 1 - start - end, 10)], axis=1)
    turn = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    knob = start * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return _fill([tapered(middle, start, end), knob], side, union=True)


def disc(side: int) -> np.ndarray:
    """Return a disc."""
    turn = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    return _fill([np.stack([np.cos(turn), np.sin(turn)], axis=1)], side)


SHAPES: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    blob,
    blob,
    polygon,
    box,
    ring,
    branching,
    branching,
)


def outline(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a random shape whose longer side has about `side` pixels."""
    return SHAPES[rng.integers(len(SHAPES))](rng, side)
