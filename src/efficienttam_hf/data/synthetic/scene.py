"""A scene: the objects of a clip, and the drawing of its frames.

Nothing here is random: `compose.py` has made all choices before the first frame is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .bodies import Body
from .motion import Camera, Track
from .render import Deformation, Patch, lay_over, motion_blur, warp


__all__ = ["Actor", "Frame", "Ground", "Look", "Scene"]


@dataclass
class Actor:
    """A moving object.

    Attributes:
        body: its appearance.
        track: its movement.
        deformation: its deformation, or `None`.
        label: the id of a tracked object, from 1; 0 if it is not tracked.
        shadow: the darkness of its shadow, from 0 (none) to 1.
        offset: the shadow's offset (x, y) relative to the object's size.
    """

    body: Body
    track: Track
    deformation: Deformation | None
    label: int = 0
    shadow: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)

    def matrix(self, camera: Camera, time: int) -> np.ndarray:
        """Return the map from the pixels of the body's picture to those of the frame: (3, 3)."""
        height, width = self.body.size
        side = max(height, width)
        to_units = np.array(
            [[1 / side, 0, -(width - 1) / 2 / side], [0, 1 / side, -(height - 1) / 2 / side], [0, 0, 1]]
        )
        return camera.matrix(time, self.track.parallax) @ self.track.matrix(time) @ to_units

    def motion(self, camera: Camera, time: int) -> np.ndarray:
        """Return the movement of its middle until the next frame, (x, y) in pixels of the frame."""
        middles = [
            camera.matrix(at, self.track.parallax) @ np.append(self.track.position[at], 1.0) for at in (time, time + 1)
        ]
        return (middles[1] - middles[0])[:2]


@dataclass
class Ground:
    """A surface that fills the view: the background, or a layer in front of it, which has transparent parts.

    Attributes:
        image: uint8 (h, w, 4), premultiplied RGBA.
        scale: the number of its pixels per world unit.
        parallax: its movement with the camera relative to the objects'.
        deformation: its deformation, or `None`.
    """

    image: np.ndarray
    scale: float
    parallax: float
    deformation: Deformation | None = None

    def matrix(self, camera: Camera, time: int) -> np.ndarray:
        """Return the map from its pixels to those of the frame: (3, 3)."""
        height, width = self.image.shape[:2]
        to_world = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, self.scale]]) / self.scale
        return camera.matrix(time, self.parallax) @ to_world

    def motion(self, camera: Camera, time: int) -> np.ndarray:
        """Return its movement in the middle of the view until the next frame, (x, y) in pixels of the frame."""
        middle = np.append(camera.offset[time] * self.parallax, 1.0)
        moved = camera.matrix(time + 1, self.parallax) @ middle - camera.matrix(time, self.parallax) @ middle
        return moved[:2]


@dataclass
class Look:
    """The effects of the camera on a frame, as arrays over time if they change.

    Attributes:
        gain: (T + 1, 3), the contrast of each channel around the middle grey.
        bias: (T + 1,), the brightness, on the scale of 255.
        lamp: a low-resolution light (h, w) and the path (T + 1, 2) on which it moves, or `None`.
        noise: int16, larger than a frame by 96 pixels in each direction, so that every frame gets another part; or
            `None`.
        noise_places: the part of `noise` that each frame gets.
        quality: the JPEG quality; `None` without compression.
        coarse: whether frames are enlarged from half their size.
    """

    gain: np.ndarray
    bias: np.ndarray
    lamp: tuple[np.ndarray, np.ndarray] | None
    noise: np.ndarray | None
    noise_places: np.ndarray
    quality: int | None
    coarse: bool

    def develop(self, frame: np.ndarray, time: int) -> np.ndarray:
        """Apply the effects to a frame, uint8 (H, W, 3), and return the same shape."""
        height, width = frame.shape[:2]
        if self.lamp is not None:
            light, places = self.lamp
            x, y = places[time]
            moved = np.array([[width / 8, 0, x * width], [0, height / 8, y * height]])
            shown = cv2.warpAffine(light, moved, (width, height), borderMode=cv2.BORDER_REFLECT_101)
            frame = cv2.multiply(frame, cv2.merge((shown, shown, shown)), scale=1 / 160)
        table = (np.arange(256)[:, None] - 127) * self.gain[time] + 127 + self.bias[time]
        frame = cv2.LUT(frame, table.clip(0, 255).astype(np.uint8)[None])
        if self.coarse:
            frame = cv2.resize(
                cv2.resize(frame, (width // 2, height // 2), interpolation=cv2.INTER_AREA), (width, height)
            )
        if self.noise is not None:
            x, y = self.noise_places[time]
            frame = cv2.add(frame, self.noise[y : y + height, x : x + width], dtype=cv2.CV_8U)
        if self.quality is not None:
            _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            frame = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
        return frame


@dataclass
class Frame:
    """A frame that was drawn.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        seen: uint8 (H, W), the label that is visible at each pixel.
        whole: (256,), the number of pixels of each label that would be visible if nothing were in front of it.
    """

    image: np.ndarray
    seen: np.ndarray
    whole: np.ndarray


@dataclass
class Scene:
    """All layers of a clip.

    Attributes:
        camera: the movement of the camera.
        grounds: the surfaces from the back to the front.
        actors: the objects, in any order.
        look: the effects of the camera.
        shutter: the fraction of a frame's time during which motion blurs.
    """

    camera: Camera
    grounds: list[Ground]
    actors: list[Actor]
    look: Look
    shutter: float

    def frame(self, time: int) -> Frame:
        """Draw the frame at a time in frames."""
        height, width = self.camera.size
        canvas = np.zeros((height, width, 4), np.uint8)
        seen, whole = np.zeros((height, width), np.uint8), np.zeros(256, np.int64)
        for i, ground in enumerate(self.grounds):
            matrix = ground.matrix(self.camera, time)
            border = cv2.BORDER_REFLECT_101
            patch = warp(ground.image, matrix, (height, width), ground.deformation, time, border=border)
            assert patch is not None  # with a border it fills the view
            patch.image = motion_blur(patch.image, tuple(self.shutter * ground.motion(self.camera, time)))
            if i == 0:
                canvas = np.ascontiguousarray(patch.image)
            else:
                lay_over(canvas, patch)
        for actor in sorted(self.actors, key=lambda actor: actor.track.order[time]):
            self._draw(canvas, seen, whole, actor, time)
        return Frame(self.look.develop(cv2.cvtColor(canvas, cv2.COLOR_RGBA2RGB), time), seen, whole)

    def _draw(self, canvas: np.ndarray, seen: np.ndarray, whole: np.ndarray, actor: Actor, time: int) -> None:
        """Draw an object with its shadow and motion blur, and count its pixels."""
        height, width = seen.shape
        matrix = actor.matrix(self.camera, time)
        smear = self.shutter * actor.motion(self.camera, time)
        # If the blur were longer than the object is wide, nothing would be visible.
        longest = 0.3 * actor.track.size[time] * math.sqrt(height * width)
        smear *= min(1.0, longest / max(1e-6, float(np.hypot(*smear))))
        beyond = math.ceil(float(np.abs(smear).max()) / 2)
        image = actor.body.image(time)
        patch = warp(image, matrix, (height, width), actor.deformation, time, beyond)
        if patch is None:
            return
        if beyond:
            patch.image = cv2.copyMakeBorder(patch.image, *(beyond,) * 4, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
            patch.left, patch.top = patch.left - beyond, patch.top - beyond
            patch.image = motion_blur(patch.image, tuple(smear))
        if actor.shadow:
            self._shadow(canvas, patch, actor, time)
        patch = patch.inside(height, width)
        if patch is None:
            return
        gain = actor.track.gain[time]
        if abs(gain - 1) > 0.02:
            patch.image = cv2.multiply(patch.image, np.array((gain, gain, gain, 1.0)))
        lay_over(canvas, patch)
        rows, columns = patch.image.shape[:2]
        solid = cv2.extractChannel(patch.image, 3) > 127
        seen[patch.top : patch.top + rows, patch.left : patch.left + columns][solid] = actor.label
        whole[actor.label] += np.count_nonzero(solid)

    def _shadow(self, canvas: np.ndarray, patch: Patch, actor: Actor, time: int) -> None:
        """Draw the shadow of an object."""
        height, width = canvas.shape[:2]
        pixels = actor.track.size[time] * math.sqrt(height * width)
        radius = max(1, round(0.04 * pixels))
        alpha = cv2.extractChannel(patch.image, 3)
        alpha = cv2.copyMakeBorder(alpha, *(2 * radius,) * 4, cv2.BORDER_CONSTANT, value=0)
        alpha = cv2.blur(cv2.convertScaleAbs(alpha, alpha=actor.shadow), (2 * radius + 1,) * 2)
        empty = np.zeros_like(alpha)
        left = patch.left - 2 * radius + round(actor.offset[0] * pixels)
        top = patch.top - 2 * radius + round(actor.offset[1] * pixels)
        shadow = Patch(cv2.merge((empty, empty, empty, alpha)), left, top).inside(height, width)
        if shadow is not None:
            lay_over(canvas, shadow)
