"""Motion: positions and rotations of objects, and the view of the camera, in every frame.

Lengths are in world units: the view of a camera at rest has area one. The origin is its middle, and y points down. All
values of a clip are drawn at once, as arrays over time. The arrays have one frame more than the clip, so that the last
frame has a velocity too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .options import SyntheticOptions
from .render import Deformation


__all__ = [
    "Camera",
    "Track",
    "camera",
    "cross",
    "deformation",
    "log_uniform",
    "object_track",
    "orbit",
    "oscillation",
    "view_extent",
]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniformly distributed."""
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def oscillation(rng: np.random.Generator, times: np.ndarray, period: tuple[float, float] = (8, 40)) -> np.ndarray:
    """Return a smooth random curve between -1 and 1, with periods in frames: float (T + 1,)."""
    first, second = rng.uniform(*period), rng.uniform(*period)
    one = np.sin(2 * math.pi * times / first + rng.uniform(0, 7))
    return 0.65 * one + 0.35 * np.sin(2 * math.pi * times / second + rng.uniform(0, 7))


@dataclass
class Track:
    """The movement of an object, as arrays over time (T + 1).

    Attributes:
        position: (T + 1, 2), the middle of the object.
        size: the longer side.
        angle: the rotation in the image plane, in radians.
        tilt: (T + 1, 2), the rotations about the object's x and y axes, in radians.
        gain: the brightness as a factor.
        order: objects with larger values are nearer to the camera.
        parallax: the movement with the camera relative to that of tracked objects; constant over time.
        mirrored: whether the object is flipped horizontally.
    """

    position: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    tilt: np.ndarray
    gain: np.ndarray
    order: np.ndarray
    parallax: float = 1.0
    mirrored: bool = False

    def matrix(self, time: int) -> np.ndarray:
        """Return the map (3, 3) from the object's coordinates, in which its longer side is one, to the world."""
        about_x, about_y = self.tilt[time]
        cos_x, sin_x, cos_y, sin_y = math.cos(about_x), math.sin(about_x), math.cos(about_y), math.sin(about_y)
        # A plane that is rotated in depth, seen from a distance of twice its size.
        tilted = np.array([[cos_y, sin_x * sin_y, 0], [0, cos_x, 0], [-sin_y / 2, sin_x * cos_y / 2, 1]])
        cos, sin = math.cos(self.angle[time]), math.sin(self.angle[time])
        size = self.size[time]
        x, y = self.position[time]
        placed = np.array([[size * cos, -size * sin, x], [size * sin, size * cos, y], [0, 0, 1]])
        if self.mirrored:
            tilted = tilted @ np.diag([-1, 1, 1])
        return placed @ tilted


def path(rng: np.random.Generator, times: np.ndarray, start: np.ndarray, options: SyntheticOptions) -> np.ndarray:
    """Return a path that begins at `start`: (T + 1, 2).

    Each coordinate is a sine of a phase that advances with the speed. So the path is nearly straight in the middle and
    turns back at its ends. Most ends are inside the frame; those of objects that leave are outside.
    """
    leaves = rng.random() < options.leave
    fast = leaves or rng.random() < options.fast
    speed = log_uniform(rng, *(options.fast_speed if fast else options.speed))
    # Objects that leave do not stand still.
    weights = np.array([0 if leaves else options.still, options.wander, options.dart])
    kind = rng.choice(3, p=weights / weights.sum())
    if kind == 0:
        rate = np.full(len(times), 0.0005)
    elif kind == 1:
        rate = speed * (1 + 0.7 * oscillation(rng, times, (5, 25)))
    else:
        begin = rng.uniform(0, 0.6 * times[-1])
        rate = speed * 1.5 * np.clip(times - begin, 0, 1)
    travelled = np.concatenate([[0], np.cumsum(rate)[:-1]])
    direction = rng.uniform(0, 2 * math.pi)
    # Most things move more horizontally than vertically.
    heading = np.array([math.cos(direction), 0.6 * math.sin(direction)])
    half = rng.uniform(0.75, 1.3, 2) if leaves else rng.uniform(0.2, 0.5, 2)
    phase = rng.uniform(-1, 1, 2)
    return start + half * (np.sin(phase + travelled[:, None] * heading / half) - np.sin(phase))


def object_track(
    rng: np.random.Generator, times: np.ndarray, start: np.ndarray, size: float, options: SyntheticOptions
) -> Track:
    """Return the movement of an object.

    Args:
        rng: the source of random numbers.
        times: (T + 1,), the times in frames.
        start: (2,), the first position.
        size: the longer side of the object.
        options: the parameters of scenes.
    """
    position = path(rng, times, start, options)
    count = len(times)
    angle = math.radians(rng.uniform(2, 25)) * oscillation(rng, times)
    if rng.random() < options.turn:
        angle += math.radians(rng.choice((-1, 1)) * rng.uniform(*options.turn_speed)) * times
    if rng.random() < options.walk:
        stride = 2 * math.pi * times / rng.uniform(4, 14) + rng.uniform(0, 7)
        position[:, 1] -= size * rng.uniform(0.01, 0.08) * np.abs(np.sin(stride))
        angle += math.radians(rng.uniform(0, 8)) * np.sin(stride)
    tilt = np.zeros((count, 2))
    if rng.random() < options.tilted:
        for axis in range(2):
            largest = math.radians(options.tilt) * rng.uniform(0.2, 1)
            tilt[:, axis] = largest * oscillation(rng, times, (10, 50))
    growth = math.log(options.scale_change) * rng.uniform(0, 1)
    sizes = size * np.exp(growth * _from_zero(oscillation(rng, times, (10, 60))))
    gain = 1 + rng.uniform(0, 0.25) * oscillation(rng, times)
    order = rng.uniform(0, 1) + rng.uniform(0, 0.3) * oscillation(rng, times)
    # Cutouts are mostly upright, but not all objects should be.
    if rng.random() < 0.2:
        angle += rng.uniform(-math.pi, math.pi)
    return Track(position, sizes, angle, tilt, gain, order, mirrored=bool(rng.random() < 0.5))


def _from_zero(curve: np.ndarray) -> np.ndarray:
    """Shift a curve so that it begins with 0."""
    return curve - curve[0]


def cross(rng: np.random.Generator, times: np.ndarray, track: Track, other: Track) -> None:
    """Lead a track over or under another one at a random time, unless the clip is too short."""
    if len(times) <= 3:
        return
    meeting = rng.uniform(0.25, 0.9) * times[-1]
    at = round(meeting)
    direction = rng.uniform(0, 2 * math.pi)
    speed = log_uniform(rng, 0.02, 0.12)
    heading = speed * np.array([math.cos(direction), 0.4 * math.sin(direction)])
    track.position = other.position[at] + (times - meeting)[:, None] * heading + 0.1 * _from_zero(track.position)


def orbit(rng: np.random.Generator, times: np.ndarray, first: Track, second: Track) -> None:
    """Let two tracks circle each other, each in front of the other in turns."""
    turn = 2 * math.pi * times / rng.uniform(10, 40) * rng.choice((-1, 1)) + rng.uniform(0, 7)
    middle = (first.position + second.position) / 2
    reach = rng.uniform(0.15, 0.35)
    for track, side in ((first, 1), (second, -1)):
        offset = side * np.stack([reach * np.sin(turn), 0.15 * reach * np.cos(turn)], axis=1)
        track.position = middle + offset
        track.order = 0.5 + side * 0.2 * np.cos(turn)


def deformation(rng: np.random.Generator, options: SyntheticOptions) -> Deformation:
    """Return a random deformation for one object."""
    strength = log_uniform(rng, *options.deformation)
    rate = log_uniform(rng, 0.1, 0.9)
    waves = []
    for _ in range(int(rng.integers(1, 4))):
        direction, heading = rng.uniform(0, 2 * math.pi, 2)
        push, number = strength * rng.uniform(0.3, 1) / 2, rng.uniform(3, 10)
        # Smaller waves are weaker, because the field would fold otherwise.
        push = min(push, 0.5 / number)
        waves.append(
            (
                push * math.cos(direction),
                push * math.sin(direction),
                number * math.cos(heading),
                number * math.sin(heading),
                rng.uniform(0, 7),
                rate * rng.uniform(0.5, 1.5),
            )
        )
    bends = []
    for _ in range(int(rng.integers(0, 3))):
        direction = rng.uniform(0, 2 * math.pi)
        joint = rng.uniform(-0.2, 0.2, 2)
        bends.append((*joint, math.cos(direction), math.sin(direction), rng.uniform(0.1, 0.6), rng.uniform(0, 7), rate))
    return Deformation(np.array(waves).reshape(-1, 6), np.array(bends).reshape(-1, 7))


def view_extent(aspect: float) -> np.ndarray:
    """Return (width, height) of a view in world units, from the ratio of width to height."""
    return np.array([math.sqrt(aspect), 1 / math.sqrt(aspect)])


@dataclass
class Camera:
    """The movement of the camera, as arrays over time (T + 1), and the shape of its view.

    Attributes:
        offset: (T + 1, 2), the middle of the view in the world.
        zoom: the magnification; 1 shows a view of area one.
        roll: the rotation in radians.
        aspect: the ratio of width to height of the view.
        size: (height, width) of the image in pixels.
    """

    offset: np.ndarray
    zoom: np.ndarray
    roll: np.ndarray
    aspect: float
    size: tuple[int, int]

    def matrix(self, time: int, parallax: float = 1.0) -> np.ndarray:
        """Return the map from the world, at the depth of a parallax, to pixels at a frame: (3, 3)."""
        height, width = self.size
        (x, y), zoom = self.offset[time] * parallax, self.zoom[time] ** parallax
        cos, sin = zoom * math.cos(self.roll[time]), zoom * math.sin(self.roll[time])
        turned = np.array([[cos, -sin, -cos * x + sin * y], [sin, cos, -sin * x - cos * y], [0, 0, 1]])
        across, down = view_extent(self.aspect)
        to_pixels = np.array([[width / across, 0, width / 2 - 0.5], [0, height / down, height / 2 - 0.5], [0, 0, 1]])
        return to_pixels @ turned


def camera(
    rng: np.random.Generator,
    times: np.ndarray,
    hero: Track,
    aspect: float,
    size: tuple[int, int],
    options: SyntheticOptions,
) -> Camera:
    """Return a camera that stands, shakes, pans, or follows an object. The path of a followed object is made longer.

    Args:
        rng: the source of random numbers.
        times: (T + 1,), the times in frames.
        hero: the object that the camera may follow; its track may be changed.
        aspect: the ratio of width to height of the view.
        size: (height, width) of the image in pixels.
        options: the parameters of scenes.
    """
    weights = np.array([options.camera_still, options.camera_shake, options.camera_pan, options.camera_follow])
    kind = rng.choice(4, p=weights / weights.sum())
    count = len(times)
    offset, zoom, roll = np.zeros((count, 2)), np.ones(count), np.zeros(count)
    speed = log_uniform(rng, *options.camera_speed)
    if kind:
        shake = rng.uniform(0, 0.012) * rng.integers(0, 2)
        offset += shake * np.stack([oscillation(rng, times, (3, 12)) for _ in range(2)], axis=1)
        zoom *= np.exp(rng.uniform(0, math.log(options.camera_zoom)) * _from_zero(oscillation(rng, times, (15, 80))))
        roll += math.radians(rng.uniform(0, options.camera_roll)) * oscillation(rng, times, (10, 50))
    if kind == 1:
        offset += rng.uniform(0.002, 0.02) * rng.standard_normal((count, 2))
    elif kind == 2:
        direction = rng.uniform(0, 2 * math.pi)
        heading = np.array([math.cos(direction), 0.4 * math.sin(direction)])
        half = rng.uniform(0.2, 0.5)
        offset += half * np.sin(np.outer(times * speed / half, heading))
    elif kind == 3:
        # A followed object moves a long way, so the background passes quickly.
        direction = rng.uniform(0, 2 * math.pi)
        heading = speed * np.array([math.cos(direction), 0.3 * math.sin(direction)])
        hero.position = hero.position + np.outer(times * (1 + 0.3 * oscillation(rng, times)), heading)
        offset += rng.uniform(0.7, 1.05) * _from_zero(hero.position)
    return Camera(offset, zoom, roll, aspect, size)
