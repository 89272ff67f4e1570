"""Composes a scene at random: its objects, their appearance and movement, and the camera."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np

from . import motion, shapes, textures
from .bodies import Figure, Wardrobe, of_outline, premultiply
from .figures import any_body
from .motion import Track, log_uniform, oscillation
from .options import SyntheticOptions
from .render import lay_over, warp
from .scene import Actor, Ground, Look, Scene


__all__ = ["compose"]


def compose(
    rng: np.random.Generator, size: tuple[int, int], num_frames: int, max_objects: int, wardrobe: Wardrobe
) -> Scene:
    """Compose a scene.

    Args:
        rng: the source of random numbers.
        size: (height, width) of the frames in pixels.
        num_frames: the number of frames.
        max_objects: the largest number of tracked objects.
        wardrobe: the source of outlines and surfaces, with the parameters of scenes.
    """
    options = wardrobe.options
    times = np.arange(num_frames + 1, dtype=np.float64)
    pixels = math.sqrt(size[0] * size[1])
    aspect = float(rng.choice(options.aspect_ratios or (size[1] / size[0],)))
    extent = motion.view_extent(aspect)

    background = _background(rng, extent, pixels, wardrobe)
    wardrobe.scenery = np.ascontiguousarray(background.image[..., :3])
    actors = [
        _actor(rng, times, extent, pixels, wardrobe, label)
        for label in range(1, int(rng.integers(1, max_objects + 1)) + 1)
    ]
    camera = motion.camera(rng, times, actors[0].track, aspect, size, options)

    tracked = len(actors)
    if tracked > 1:
        choice = rng.random()
        if choice < options.orbit:
            motion.orbit(rng, times, actors[0].track, actors[1].track)
        elif choice < options.orbit + options.crossing / 2:
            motion.cross(rng, times, actors[1].track, actors[0].track)
    room = options.max_untracked
    while room and rng.random() < options.distractor:
        double = _double(rng, times, extent, actors[rng.integers(tracked)], options)
        if tracked < max_objects and rng.random() < options.double_tracked:
            tracked += 1
            double.label = tracked
        else:
            room -= 1
        actors.append(double)
    while room and rng.random() < options.occluder:
        room -= 1
        actors.append(_occluder(rng, times, extent, pixels, wardrobe, actors[rng.integers(tracked)].track))

    grounds = [background]
    if rng.random() < options.midground:
        grounds.append(_midground(rng, extent, pixels, wardrobe, background))
    if rng.random() < options.sway:
        sway = motion.deformation(rng, options)
        for ground in grounds:
            ground.deformation = replace(sway, bends=sway.bends[:0], waves=sway.waves * (0.3, 0.3, 2, 2, 1, 1))
    return Scene(camera, grounds, actors, _look(rng, times, size, options), rng.uniform(*options.shutter))


def _actor(
    rng: np.random.Generator, times: np.ndarray, extent: np.ndarray, pixels: float, wardrobe: Wardrobe, label: int
) -> Actor:
    """Return a moving object with a random body, track and shadow."""
    options = wardrobe.options
    side = options.object_side_median * math.exp(options.object_side_spread * rng.standard_normal())
    side = float(np.clip(side, *options.object_side))
    track = motion.object_track(rng, times, _start(rng, extent, side), side, options)
    body = any_body(rng, max(12, round(side * pixels * 1.1)), wardrobe)
    field = motion.deformation(rng, options) if rng.random() < options.deform else None
    if field is not None and isinstance(body, Figure):
        # Figures move their joints, so a small deformation is enough.
        field = replace(field, bends=field.bends[:0])
    shadow = rng.uniform(0.2, 0.6) if rng.random() < options.shadow else 0.0
    return Actor(body, track, field, label, shadow, (rng.uniform(-0.1, 0.1), rng.uniform(0, 0.1)))


def _start(rng: np.random.Generator, extent: np.ndarray, side: float) -> np.ndarray:
    """Return the first position of an object: large ones are nearer to the middle, and some are cut by the border."""
    reach = np.maximum(0.15, 0.5 - 0.2 * side / extent)
    return extent * np.clip(rng.normal(0, 0.24, 2), -reach, reach)


def _double(
    rng: np.random.Generator, times: np.ndarray, extent: np.ndarray, original: Actor, options: SyntheticOptions
) -> Actor:
    """Return an untracked object that looks like another one, with its own position and movement."""
    side = float(original.track.size[0]) * rng.uniform(0.75, 1.3)
    start = _start(rng, extent, side)
    if np.linalg.norm(start - original.track.position[0]) < side:
        start = -start
    track = motion.object_track(rng, times, start, side, options)
    track.mirrored = original.track.mirrored
    field = motion.deformation(rng, options) if rng.random() < options.deform else original.deformation
    return replace(original, track=track, deformation=field, label=0)


def _occluder(
    rng: np.random.Generator, times: np.ndarray, extent: np.ndarray, pixels: float, wardrobe: Wardrobe, target: Track
) -> Actor:
    """Return an untracked object in front of all others: an object that crosses, a post, or foliage."""
    options = wardrobe.options
    kind = rng.random()
    if kind < 0.5:
        side = float(target.size.mean()) * rng.uniform(0.8, 1.7)
        body = any_body(rng, max(12, round(min(1.0, side) * pixels)), wardrobe)
    else:
        side = rng.uniform(0.5, 1.3) if kind < 0.75 else rng.uniform(0.3, 0.9)
        shape = shapes.bar if kind < 0.75 else shapes.foliage
        body = of_outline(rng, shape(rng, round(min(0.8, side) * pixels)), wardrobe)
    track = motion.object_track(rng, times, _start(rng, extent, side), side, options)
    if kind >= 0.5:
        # Posts and plants do not move; the camera moves past them.
        track.position = track.position[:1] + 0.1 * (track.position - track.position[:1])
        track.angle = 0.1 * track.angle
    if rng.random() < options.crossing:
        motion.cross(rng, times, track, target)
    elif len(times) > 2:
        # Occluders that are not led over an object begin at the side of the view.
        track.position = track.position + np.array([rng.choice((-0.35, 0.35)) * extent[0], 0])
    track.order = track.order + 2
    track.parallax = rng.uniform(1.0, 1.7)
    field = motion.deformation(rng, options) if rng.random() < 0.3 else None
    if field is not None:
        field = replace(field, bends=field.bends[:0])
    return Actor(body, track, field)


def _scenery(rng: np.random.Generator, height: int, width: int, wardrobe: Wardrobe) -> np.ndarray:
    """Return a surface for a background, uint8 (height, width, 3)."""
    if wardrobe.photos and rng.random() < wardrobe.options.photo_background:
        photo = wardrobe.photos[0]
        return textures.recolour(rng, textures.photo_crop(rng, photo, height, width, (0.35, 1.0)))
    scenery = textures.procedural(rng, height, width)
    for _ in range(int(rng.integers(0, 3))):
        scenery = textures.blend_regions(rng, scenery, textures.procedural(rng, height, width))
    # Light that varies across the scene gives it a large structure.
    light = (110 + 60 * textures.smooth_noise(rng, height, width, 2)).astype(np.uint8)
    return cv2.multiply(scenery, cv2.merge((light, light, light)), scale=1 / 140)


def _background(rng: np.random.Generator, extent: np.ndarray, pixels: float, wardrobe: Wardrobe) -> Ground:
    """Return the background, larger than the view, sometimes with things that lie on it."""
    options = wardrobe.options
    width, height = (max(32, round(side * options.background_side * pixels)) for side in extent)
    image = cv2.cvtColor(_scenery(rng, height, width, wardrobe), cv2.COLOR_RGB2RGBA)
    if rng.random() < options.clutter:
        for _ in range(int(rng.integers(1, 5))):
            side = log_uniform(rng, 0.08, 0.4) * pixels
            thing = any_body(rng, max(8, round(side)), wardrobe).image(0.0)
            angle = rng.normal(0, 0.3)
            cos, sin = math.cos(angle), math.sin(angle)
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            patch = warp(thing, np.array([[cos, -sin, x], [sin, cos, y], [0, 0, 1]]), (height, width))
            if patch is not None:
                lay_over(image, patch)
    if rng.random() < options.defocus:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.003, 0.012) * pixels)
    parallax = 1.0 if rng.random() < 0.4 else rng.uniform(*options.parallax)
    return Ground(image, pixels, parallax)


def _midground(
    rng: np.random.Generator, extent: np.ndarray, pixels: float, wardrobe: Wardrobe, background: Ground
) -> Ground:
    """Return a second surface in front of parts of the background; it is nearer, so it moves more with the camera."""
    height, width = background.image.shape[:2]
    surface = wardrobe.surface(rng, height, width)
    if rng.random() < 0.6:
        skyline = rng.uniform(0.35, 0.7) + 0.25 * (textures.smooth_noise(rng, 2, width, rng.uniform(2, 12), 3)[0] - 0.5)
        level = np.arange(height, dtype=np.float32)[:, None] - skyline * height
    else:
        level = (textures.smooth_noise(rng, height, width, rng.uniform(2, 6), 2) - rng.uniform(0.6, 0.75)) * height / 4
    alpha = (level * 255).clip(0, 255).astype(np.uint8)
    return Ground(premultiply(surface, alpha), background.scale, rng.uniform(background.parallax, 1.0))


def _look(rng: np.random.Generator, times: np.ndarray, size: tuple[int, int], options: SyntheticOptions) -> Look:
    """Return random effects of the camera: brightness, colour, light, noise, compression and resolution."""
    count = len(times)
    gain = np.full((count, 3), rng.uniform(0.8, 1.15))
    bias = np.full(count, rng.uniform(-15, 15))
    if rng.random() < options.light:
        gain *= 1 + rng.uniform(0, 0.2) * oscillation(rng, times, (6, 60))[:, None]
        gain *= 1 + np.stack([rng.uniform(0, 0.08) * oscillation(rng, times, (10, 60)) for _ in range(3)], axis=1)
        bias += rng.uniform(0, 30) * oscillation(rng, times, (6, 60))
    lamp = None
    if rng.random() < options.lamp:
        light = rng.uniform(160 * rng.uniform(0.4, 0.9), 160 * 1.15, (8, 8)).astype(np.uint8)
        places = np.stack([rng.uniform(0.05, 0.4) * oscillation(rng, times) for _ in range(2)], axis=1)
        lamp = (cv2.GaussianBlur(light, (0, 0), 1.0), places)
    noise = None
    if rng.random() < options.noise:
        level = rng.uniform(*options.noise_level)
        # One tile is repeated, because drawing noise for a whole frame takes as long as the rest of the frame.
        tile = rng.standard_normal((96, 96, 3), dtype=np.float32)
        if rng.random() < 0.4:
            tile = np.asarray(2 * cv2.blur(tile, (2, 2)), np.float32)
        repeats = (-(-(size[0] + 96) // 96), -(-(size[1] + 96) // 96), 1)
        noise = np.tile(np.round(tile * level).astype(np.int16), repeats)
    quality = int(rng.uniform(*options.compression_quality)) if rng.random() < options.compression else None
    return Look(
        gain, bias, lamp, noise, rng.integers(0, 96, (count, 2)), quality, bool(rng.random() < options.low_resolution)
    )
