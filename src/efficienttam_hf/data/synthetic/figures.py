"""Figures: bodies of several parts that swing around joints. Each part has its own surface; together they are one
object.

Lengths are relative to the side of the figure's square canvas. Pivots and joints are relative to the width and height
of the part that has them, and (0, 0) is its top left corner. At rest, limbs hang down from their joint.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from . import shapes, textures
from .bodies import FRAME, Body, Figure, Part, Wardrobe, framed, lit, of_cutout, of_outline, premultiply, relief, soften


__all__ = ["any_body", "single"]


class _Assembly:
    """Builds a figure part by part.

    Args:
        rng: the source of random numbers.
        side: the side of the square canvas in pixels.
        wardrobe: the source of surfaces.
    """

    def __init__(self, rng: np.random.Generator, side: int, wardrobe: Wardrobe) -> None:
        self.rng, self.side, self.wardrobe = rng, side, wardrobe
        self.figure = Figure([], (side, side))
        self.shaded = bool(rng.random() < wardrobe.options.shading)
        self.surfaces: dict[str, np.ndarray] = {}

    def pixels(self, length: float) -> int:
        """Convert a length relative to the canvas to pixels, at least 5."""
        return max(5, round(self.side * length))

    def sized(self, alpha: np.ndarray, width: float, height: float) -> np.ndarray:
        """Resize an outline to a width and height relative to the canvas."""
        return cv2.resize(alpha, (self.pixels(width), self.pixels(height)), interpolation=cv2.INTER_AREA)

    def add(
        self,
        alpha: np.ndarray,
        material: str,
        pivot: tuple[float, float],
        joint: tuple[float, float],
        parent: int = -1,
        **movement: Any,
    ) -> int:
        """Add a part with an outline. Parts of one material are cropped from one surface, as two sleeves are.

        Args:
            alpha: the outline, uint8 (h, w).
            material: the name of the material.
            pivot: the point of the part that is placed on the joint, relative to the part.
            joint: the joint, relative to the parent.
            parent: the number of the parent; -1 is the canvas.
            movement: further fields of `Part`.

        Returns:
            The number of the part.
        """
        if material not in self.surfaces:
            size = max(8, self.side // 2)
            self.surfaces[material] = self.wardrobe.surface(self.rng, size, size)
        alpha = framed(alpha)
        image = premultiply(
            textures.photo_crop(self.rng, self.surfaces[material], alpha.shape[0], alpha.shape[1], (0.5, 1.0)), alpha
        )
        if self.shaded:
            image = lit(image, relief(self.rng, alpha))
        return self.add_picture(image, pivot, joint, parent, **movement)

    def add_picture(
        self,
        image: np.ndarray,
        pivot: tuple[float, float],
        joint: tuple[float, float],
        parent: int = -1,
        **movement: Any,
    ) -> int:
        """Add a part with a premultiplied picture; see `add`. Returns the number of the part."""
        parts = self.figure.parts
        base = parts[parent].pixels.shape if parent >= 0 else self.figure.size
        parts.append(Part(image, _place(pivot, image.shape), parent, _place(joint, base), **movement))
        return len(parts) - 1

    def limb(self, length: float, thick: float, material: str, **where: Any) -> int:
        """Add a limb whose half width at the joint is `thick` times its length; its end is at (0.5, 1 - thick)."""
        alpha = shapes.limb(self.pixels(length), thick, thick * self.rng.uniform(0.6, 1))
        return self.add(alpha, material, (0.5, thick), **where)


def _place(relative: tuple[float, float], size: tuple[int, ...]) -> tuple[float, float]:
    """Convert a point relative to a part to pixels of the part's picture with its border."""
    height, width = size[:2]
    return FRAME + relative[0] * (width - 2 * FRAME), FRAME + relative[1] * (height - 2 * FRAME)


def person(rng: np.random.Generator, side: int, wardrobe: Wardrobe) -> Figure:
    """Make a figure on two legs: torso, head, hair, arms with elbows, legs with knees, sometimes a thing in a hand."""
    made = _Assembly(rng, side, wardrobe)
    rate, phase, swing = rng.uniform(0.15, 0.9), rng.uniform(0, 7), rng.uniform(0.1, 0.8)
    bulk, lean = rng.uniform(0.8, 1.3), rng.uniform(-0.3, 0.3)
    sleeve = "top" if rng.random() < 0.6 else "skin"
    stocking = "bottom" if rng.random() < 0.7 else "skin"

    shape = shapes.box if rng.random() < 0.5 else shapes.blob
    trunk = made.sized(shape(rng, made.pixels(0.3)), 0.17 * bulk, 0.32)
    torso = made.add(trunk, "top", (0.5, 0.9), (0.5, 0.53), rest=lean, swing=0.1, rate=rate, front=2)
    face = shapes.blob(rng, made.pixels(rng.uniform(0.12, 0.18)))
    hair = cv2.resize(face, None, fx=rng.uniform(0.9, 1.2), fy=rng.uniform(0.35, 0.7))
    head = made.add(face, "skin", (0.5, 0.95), (0.5, 0.04), torso, swing=0.15, rate=rate, phase=phase, front=3)
    if rng.random() < 0.6:
        made.add(hair, "hair", (0.5, 0.3), (0.5, 0.12), head, front=4)

    arm, leg = rng.uniform(0.15, 0.22), rng.uniform(0.2, 0.25)
    spread = rng.uniform(-0.1, 1.2) if rng.random() < 0.3 else rng.uniform(-0.1, 0.3)
    for side_of_body, step in ((1, 0.0), (-1, math.pi)):
        near = side_of_body < 0
        there = {"rate": rate, "phase": phase + step, "front": 5 if near else 1}
        shoulder, bent = (0.5 + 0.38 * side_of_body, 0.12), rng.uniform(-1.2, 0.2)
        upper = {"joint": shoulder, "parent": torso, "rest": -spread * side_of_body, "swing": swing}
        elbow = made.limb(arm, 0.16 * bulk, "top", **upper, **there)
        hand = made.limb(arm, 0.13, sleeve, joint=(0.5, 0.88), parent=elbow, rest=bent, swing=0.6 * swing, **there)
        there = {"rate": rate, "front": int(near)}
        hip, apart = (0.5 + 0.2 * side_of_body, 0.88), -0.1 * side_of_body - lean
        step += phase + math.pi
        knee = made.limb(
            leg, 0.19 * bulk, "bottom", joint=hip, parent=torso, rest=apart, swing=swing, phase=step, **there
        )
        lower = {"joint": (0.5, 0.86), "parent": knee, "rest": 0.5 * swing, "swing": 0.6 * swing}
        made.limb(leg, 0.15, stocking, **lower, phase=step - 0.8, **there)
    if rng.random() < 0.3:
        thing = shapes.outline(rng, made.pixels(rng.uniform(0.1, 0.3)))
        made.add(thing, "held", (0.5, 0.3), (0.5, 0.9), hand, front=6)
    return made.figure


def animal(rng: np.random.Generator, side: int, wardrobe: Wardrobe) -> Figure:
    """Make a figure on four legs: trunk, neck, head, legs with knees and a tail."""
    made = _Assembly(rng, side, wardrobe)
    rate, swing = rng.uniform(0.2, 1.0), rng.uniform(0.1, 0.7)
    face = "coat" if rng.random() < 0.6 else "face"
    socks = "coat" if rng.random() < 0.6 else "socks"

    long = rng.uniform(0.4, 0.55)
    barrel = made.sized(shapes.blob(rng, made.pixels(long)), long, rng.uniform(0.16, 0.3))
    tilt = rng.uniform(-0.1, 0.1)
    trunk = made.add(barrel, "coat", (0.5, 0.5), (0.5, 0.47), rest=tilt, swing=0.06, rate=rate, front=2)
    upright = {"rest": rng.uniform(-2.6, -1.4), "swing": 0.2, "rate": rate, "front": 3}
    neck = made.limb(rng.uniform(0.12, 0.3), 0.28, "coat", joint=(0.9, 0.35), parent=trunk, **upright)
    head = shapes.blob(rng, made.pixels(rng.uniform(0.12, 0.22)))
    nodding = {"rest": rng.uniform(1.2, 2.4), "swing": 0.25, "rate": rate, "phase": 1.0, "front": 4}
    made.add(head, face, (0.3, 0.5), (0.5, 0.85), neck, **nodding)

    leg = rng.uniform(0.12, 0.22)
    for at, front, step in ((0.15, 0, math.pi), (0.82, 0, 0), (0.22, 3, 0), (0.9, 3, math.pi)):
        there = {"rate": rate, "phase": step + rng.uniform(-0.4, 0.4), "front": front}
        knee = made.limb(leg, 0.22, "coat", joint=(at, 0.75), parent=trunk, swing=swing, **there)
        made.limb(leg, 0.16, socks, joint=(0.5, 0.86), parent=knee, rest=0.2, swing=0.7 * swing, **there)
    hanging = {"rest": rng.uniform(0.5, 2.2), "swing": 0.5, "rate": 1.3 * rate, "front": 1}
    made.limb(rng.uniform(0.15, 0.35), rng.uniform(0.05, 0.15), "coat", joint=(0.05, 0.3), parent=trunk, **hanging)
    return made.figure


def vehicle(rng: np.random.Generator, side: int, wardrobe: Wardrobe) -> Figure:
    """Make a vehicle: a chassis, a cabin and rolling wheels."""
    made = _Assembly(rng, side, wardrobe)
    long = rng.uniform(0.7, 0.95)
    frame = made.sized(shapes.box(rng, made.pixels(long)), long, rng.uniform(0.2, 0.35))
    chassis = made.add(frame, "paint", (0.5, 0.5), (0.5, 0.55), swing=0.03, rate=0.8, front=1)
    if rng.random() < 0.8:
        cabin = shapes.outline(rng, made.pixels(rng.uniform(0.3, 0.5)))
        made.add(cabin, "cabin", (0.5, 0.8), (rng.uniform(0.3, 0.7), 0.2), chassis)
    wheel, spin = shapes.disc(made.pixels(rng.uniform(0.14, 0.24))), rng.uniform(-0.8, 0.8)
    for at in (rng.uniform(0.12, 0.25), rng.uniform(0.75, 0.88)):
        made.add(wheel, "tyre", (0.5, 0.5), (at, 0.95), chassis, spin=spin, front=2)
    return made.figure


def cluster(rng: np.random.Generator, side: int, wardrobe: Wardrobe) -> Figure:
    """Make two to five shapes or cutouts, each connected to an earlier one."""
    made = _Assembly(rng, side, wardrobe)
    for i in range(int(rng.integers(2, 6))):
        length = made.pixels(rng.uniform(0.15, 0.35) if i else rng.uniform(0.4, 0.6))
        swing: dict[str, Any] = {
            "swing": rng.uniform(0, 0.6),
            "rate": rng.uniform(0.1, 0.7),
            "phase": rng.uniform(0, 7),
        }
        thing = single(rng, length, wardrobe).image(0)
        if i == 0:
            made.add_picture(thing, (0.5, 0.5), (0.5, 0.5), **swing | {"swing": 0.1})
        else:
            parent = 0 if rng.random() < 0.7 else i - 1
            pivot, joint = tuple(rng.uniform(0.2, 0.6, 2)), tuple(rng.uniform(0.2, 0.8, 2))
            front = int(rng.integers(-2, 3))
            made.add_picture(thing, pivot, joint, parent, rest=rng.normal(0, 0.6), front=front, **swing)
    return made.figure


FIGURES = (person, person, animal, animal, vehicle, cluster, cluster)


def single(rng: np.random.Generator, side: int, wardrobe: Wardrobe) -> Body:
    """Make a body of one cutout or one shape."""
    if wardrobe.cutout is not None and rng.random() < wardrobe.options.cutout:
        for _ in range(4):
            body = of_cutout(rng, wardrobe.cutout(), side, wardrobe)
            if body is not None:
                return body
    return of_outline(rng, shapes.outline(rng, side), wardrobe)


def any_body(rng: np.random.Generator, side: int, wardrobe: Wardrobe) -> Body:
    """Make a body of any kind, whose longer side has about `side` pixels."""
    figure = rng.random() < wardrobe.options.figure
    make = FIGURES[rng.integers(len(FIGURES))] if figure else single
    body = make(rng, side, wardrobe)
    if rng.random() < wardrobe.options.soft_edge:
        soften(body, rng.uniform(1, 3))
    return body
