"""The scenes of `stress.py`, in which an object is hidden, leaves, is crossed, or the camera cuts to another view."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np

from . import motion
from .bodies import Wardrobe
from .compose import compose
from .motion import Track, log_uniform
from .options import SyntheticOptions
from .scene import Actor, Frame, Scene


Draw = Callable[[int], Frame]


def _scene(
    rng: np.random.Generator, size: tuple[int, int], num_frames: int, options: SyntheticOptions
) -> tuple[Scene, Actor]:
    """Return a calm scene with one object and a camera that hardly moves."""
    scene = compose(rng, size, num_frames, 1, Wardrobe([], None, options))
    return scene, scene.actors[0]


def _eased(times: np.ndarray, keys: list[float], values: list[float]) -> np.ndarray:
    """Return a curve that starts and stops smoothly at given values.

    Args:
        times: (T + 1,), the times in frames.
        keys: times as fractions of the video, from 0 to 1.
        values: the values at these times.
    """
    part = times / times[-1]
    place = np.clip(np.searchsorted(keys, part, side="right") - 1, 0, len(keys) - 2)
    begin, end = np.take(keys, place), np.take(keys, place + 1)
    way = np.clip((part - begin) / (end - begin), 0, 1)
    way = way * way * (3 - 2 * way)
    return np.take(values, place) * (1 - way) + np.take(values, place + 1) * way


def _like(original: Actor, label: int, factor: float = 1.0) -> Actor:
    """Return an object with the appearance and the joint movements of another one, `factor` times as large."""
    track = deepcopy(original.track)
    track.size = track.size * factor
    return replace(original, track=track, label=label)


def _settled(track: Track, middle: np.ndarray, sway: float = 0.15) -> None:
    """Keep a track near a place, with a fraction `sway` of its movement."""
    track.position = middle + sway * (track.position - track.position[0])


def occlusion(rng: np.random.Generator, size: tuple[int, int], num_frames: int, options: SyntheticOptions) -> Draw:
    """Return the drawing of a scene in which a similar object covers the object."""
    scene, actor = _scene(rng, size, num_frames, options)
    times = np.arange(num_frames + 1, dtype=np.float64)
    extent = motion.view_extent(scene.camera.aspect)
    _settled(actor.track, extent * rng.uniform(-0.12, 0.12, 2))
    actor.track.angle = 0.3 * actor.track.angle
    like = _like(actor, 0, factor=1.4)
    side, heading = float(actor.track.size[0]), rng.choice((-1.0, 1.0))
    begin, stay = rng.uniform(0.2, 0.35), rng.uniform(0.18, 0.3)
    keys = [0.0, begin, begin + 0.15, begin + 0.15 + stay, min(begin + stay + 0.35, 0.9), 1.0]
    away = [1.8 + side, 1.6 + side, 0.05, -0.05, -1.4, -1.5]
    offset = heading * side * _eased(times, keys, away)
    like.track.position = actor.track.position + np.stack([offset, 0.15 * offset], axis=1)
    like.track.order = actor.track.order + 2
    scene.actors.append(like)
    return scene.frame


def reentry(rng: np.random.Generator, size: tuple[int, int], num_frames: int, options: SyntheticOptions) -> Draw:
    """Return the drawing of a scene in which the object leaves the view and returns."""
    scene, actor = _scene(rng, size, num_frames, options)
    times = np.arange(num_frames + 1, dtype=np.float64)
    extent = motion.view_extent(scene.camera.aspect)
    side = float(actor.track.size.max())
    out = extent[0] / 2 + side
    leaves, returns = rng.choice((-1.0, 1.0), 2)
    start, end = extent * rng.uniform(-0.2, 0.2, 2), extent * rng.uniform(-0.2, 0.2, 2)
    gone, back = rng.uniform(0.35, 0.45), rng.uniform(0.6, 0.7)
    x = np.where(
        times / times[-1] < (gone + back) / 2,
        _eased(times, [0.0, 0.12, gone, 1.0], [start[0], start[0], leaves * out, leaves * out]),
        _eased(times, [0.0, back, 0.92, 1.0], [returns * out, returns * out, end[0], end[0]]),
    )
    y = _eased(times, [0.0, gone, back, 1.0], [start[1], start[1], end[1], end[1]])
    sway = 0.15 * (actor.track.position - actor.track.position[0])
    actor.track.position = np.stack([x, y], axis=1) + sway
    # The camera does not follow the object.
    scene.camera.offset = 0.2 * scene.camera.offset
    return scene.frame


def crossing(rng: np.random.Generator, size: tuple[int, int], num_frames: int, options: SyntheticOptions) -> Draw:
    """Return the drawing of a scene in which two similar objects pass each other twice."""
    scene, actor = _scene(rng, size, num_frames, options)
    times = np.arange(num_frames + 1, dtype=np.float64)
    extent = motion.view_extent(scene.camera.aspect)
    twin = _like(actor, 2)
    side = float(actor.track.size[0])
    apart = min(0.3 * extent[0], 1.1 * side)
    turn = 2 * np.pi * times / times[-1] * rng.uniform(0.95, 1.05)
    across, above = apart * np.cos(turn) * rng.choice((-1.0, 1.0)), rng.uniform(-0.08, 0.08) * side
    middle = extent * rng.uniform(-0.1, 0.1, 2)
    sway = 0.1 * (actor.track.position - actor.track.position[0])
    actor.track.position = middle + np.stack([across, np.full_like(across, above)], axis=1) + sway
    twin.track.position = middle + np.stack([-across, np.full_like(across, -above)], axis=1) + sway
    # The object that is behind at the first crossing is in front at the second.
    actor.track.order = np.where(turn < np.pi, 0.3, 0.7)
    twin.track.order = 1 - actor.track.order
    scene.actors.append(twin)
    return scene.frame


def cut(rng: np.random.Generator, size: tuple[int, int], num_frames: int, options: SyntheticOptions) -> Draw:
    """Return the drawing of a scene with two cuts between views."""
    scene, actor = _scene(rng, size, num_frames, options)
    other, absent = _scene(rng, size, num_frames, options)
    absent.label = 0
    extent = motion.view_extent(scene.camera.aspect)
    first, away, back = (round(part * num_frames) for part in (0.25, rng.uniform(0.45, 0.5), rng.uniform(0.65, 0.7)))
    steps = np.arange(num_frames + 1)
    sway = 0.15 * (actor.track.position - actor.track.position[0])
    places = extent * rng.uniform(-0.28, 0.28, (3, 2))
    shot = (steps >= first).astype(int) + (steps >= back)
    views = extent * rng.uniform(-0.12, 0.12, (3, 2))
    # At a cut, the view of the camera and the object's place in it change.
    scene.camera.offset = scene.camera.offset + views[shot]
    scene.camera.zoom = scene.camera.zoom * np.array([1.0, *(log_uniform(rng, 0.75, 1.4) for _ in range(2))])[shot]
    actor.track.position = places[shot] + views[shot] + sway
    actor.track.order = np.full(num_frames + 1, 0.5)

    def draw(time: int) -> Frame:
        return (other if away <= time < back else scene).frame(time)

    return draw


SCENES = {"occlusion": occlusion, "reentry": reentry, "crossing": crossing, "cut": cut}
