"""Effects on a video: what is remembered from frame to frame, in bounded RAM.

Two things are remembered. **Edges**: a tracker decides each frame anew, so the edge of an object at rest moves by a
pixel or two and flickers. With `smooth`, the matte of an object is an exponential average over time: `smooth` times the
average so far, plus the rest of the matte of this frame. An average alone would drag a trail behind whatever moves. So
it has a motion guard: where the picture itself changed since the last frame, the average is dropped and the matte of
this frame is used. It is causal: only frames that came before matter, so it also works on a live stream.

**Hidden objects**: the effects that hide objects keep a lost one hidden where it was last seen, for `hold` frames, and
can blacken the frames on which it is still lost after that; see `hiding.py`. Often a tracker does not lose an object at
once, but keeps a speck of it. So an object of which less than a quarter is left from one frame to the next is held too.

For each object there is one matte, and with `smooth` one average, of the size of its box; and one grey picture of the
last frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..visualization import checked_image
from .effect import Effect
from .hiding import Hiding
from .highlighting import Overlay
from .mattes import Matte, import_cv2, joined


# Differences of grey values between two frames, averaged over 7x7 pixels: up to STILL, noise, the picture is at rest;
# from MOVED on, it moves. Near anything that moves, it counts as moving: a few pixels that happen to look as before
# must not keep an object that has left.
STILL, MOVED = 3, 10
NEAR = 15  # pixels, the side of the square around a moving pixel
SPECK = 0.25  # of the area on the last frame: a mask with less is held
FAINT = 0.02  # an average below this is dropped


class EffectStream:
    """One effect or several on the frames of a video, in their order.

    Args:
        effects: one effect, or several that are applied in this order. One whose picture has an alpha channel must be
            the last.
        object_ids: the ids of all objects of the video, if they are known. `lost="blank"` then also applies to objects
            that have not been seen yet.

    Raises:
        ValueError: if there is no effect, or one with alpha is not the last.
    """

    def __init__(self, effects: Effect | Sequence[Effect], object_ids: Iterable[int] = ()) -> None:
        effects = [effects] if isinstance(effects, Effect) else list(effects)
        object_ids = frozenset(object_ids)
        if not effects:
            raise ValueError("An effect stream needs at least one effect, got none.")
        for effect in effects[:-1]:
            if effect.channels == 4:
                raise ValueError(
                    f"Effect {effect.name} makes a transparent picture, so it must be the last effect, but "
                    f"{effects[-1].name} follows it."
                )
        if object_ids:
            effects = [
                replace(one, labels=len(object_ids) > 1) if isinstance(one, Overlay) and one.labels is None else one
                for one in effects
            ]
        self._steps = [_Step(effect, object_ids) for effect in effects]
        self._needs_motion = any(effect.smooth for effect in effects)
        self._last_grey: np.ndarray | None = None
        self.channels = effects[-1].channels

    def __call__(self, frame: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
        """Draw the next frame.

        Args:
            frame: uint8 ``(height, width, 3)``, RGB, of the same size as the others. It is not changed.
            masks: the mask of each object id, bool ``(height, width)``. An object without a mask, or with an empty one,
                is not seen on this frame.

        Returns:
            uint8 ``(height, width, channels)``, RGB or RGBA.

        Raises:
            ValueError: if the frame or a mask has another shape or dtype.
            ImportError: if OpenCV is not installed.
        """
        frame = checked_image(frame, "The frame")
        stillness = self._stillness(frame) if self._needs_motion else None
        for step in self._steps:
            frame = step(frame, masks, stillness)
        return frame

    def _stillness(self, frame: np.ndarray) -> np.ndarray | None:
        """Return where the picture is as in the last frame, float32 from 0 to 1; None on the first frame."""
        cv2 = import_cv2()
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        before, self._last_grey = self._last_grey, grey
        if before is None:
            return None
        if before.shape != grey.shape:
            raise ValueError(
                f"The frame has height and width {grey.shape}, the frames before it {before.shape}; make a stream for "
                "each video."
            )
        difference = cv2.blur(cv2.absdiff(grey, before), (7, 7))
        difference = cv2.dilate(difference, np.ones((NEAR, NEAR), np.uint8))
        table = np.clip((MOVED - np.arange(256, dtype=np.float32)) / (MOVED - STILL), 0, 1)
        return np.asarray(cv2.LUT(difference, table))


class _Step:
    """One effect with what it remembers."""

    def __init__(self, effect: Effect, object_ids: frozenset[int]) -> None:
        self._effect = effect
        self._hold = effect.hold if isinstance(effect, Hiding) else 0
        self._blanks = isinstance(effect, Hiding) and effect.lost == "blank"
        self._wanted = set(object_ids if effect.objects is None else effect.objects)
        self._last: dict[int, tuple[Matte, int]] = {}  # by object: its last matte, and for how many frames it is lost
        self._averages: dict[int, _Average] = {}

    def __call__(self, frame: np.ndarray, masks: Mapping[int, np.ndarray], stillness: np.ndarray | None) -> np.ndarray:
        """Draw a frame; see `EffectStream`."""
        size = frame.shape[:2]
        hard = dict(self._effect.hard(masks, size))
        if self._hold:
            self._fill_in(hard)
        if self._blanks:
            self._wanted.update(hard)
            if not self._wanted <= hard.keys():
                self._averages.clear()
                return np.zeros_like(frame)
        mattes = {object_id: self._effect.grown(matte, size) for object_id, matte in hard.items()}
        if self._effect.smooth:
            mattes = self._smoothed(mattes, stillness)
        mattes = {object_id: self._effect.softened(matte, size) for object_id, matte in mattes.items()}
        return self._effect.draw(frame, mattes)

    def _fill_in(self, mattes: dict[int, Matte]) -> None:
        """Add the last mattes of objects that are lost and still to be hidden."""
        seen = dict(mattes)
        for object_id, (last, missed) in list(self._last.items()):
            now = seen.get(object_id)
            if now is not None and np.count_nonzero(now.values) >= SPECK * np.count_nonzero(last.values):
                continue
            if missed < self._hold:
                mattes[object_id] = last if now is None else joined(last, now)
                self._last[object_id] = last, missed + 1
                seen.pop(object_id, None)
            else:
                del self._last[object_id]
        self._last.update((object_id, (matte, 0)) for object_id, matte in seen.items())

    def _smoothed(self, mattes: dict[int, Matte], stillness: np.ndarray | None) -> dict[int, Matte]:
        """Return the averages over time, also of objects that are fading."""
        smoothed = {}
        for object_id in mattes.keys() | self._averages.keys():
            average = self._averages.pop(object_id, None)
            if average is None or stillness is None:
                average = _Average.begin(mattes[object_id])
            else:
                average = average.after(mattes.get(object_id), self._effect.smooth, stillness, self._effect.covers)
            if average is not None:
                self._averages[object_id] = average
                smoothed[object_id] = average.matte()
        return smoothed


class _Average:
    """The average of an object's matte over time: float32 from 0 to 1, for the box in which it is not 0."""

    def __init__(self, left: int, top: int, values: np.ndarray) -> None:
        self._left, self._top, self._values = left, top, values

    @classmethod
    def begin(cls, matte: Matte) -> _Average:
        """Begin with a matte."""
        return cls(matte.left, matte.top, matte.values.astype(np.float32) / 255)

    def matte(self) -> Matte:
        """Convert the average to a matte."""
        return Matte(self._left, self._top, np.rint(255 * self._values).astype(np.uint8))

    def after(self, matte: Matte | None, smooth: float, stillness: np.ndarray, covers: bool) -> _Average | None:
        """Return the average after another frame; None if nothing of it is left.

        Args:
            matte: the matte of the frame; None if the object is not on it.
            smooth: the weight of the average so far, where the picture is still.
            stillness: where it is, float32 ``(height, width)`` of the frame.
            covers: whether the average may not be lower than the matte of the frame.
        """
        height, width = self._values.shape
        top, left, bottom, right = self._top, self._left, self._top + height, self._left + width
        if matte is not None:
            rows, columns = matte.box
            top, bottom = min(top, rows.start), max(bottom, rows.stop)
            left, right = min(left, columns.start), max(right, columns.stop)
        now = np.zeros((bottom - top, right - left), np.float32)
        if matte is not None:
            now[matte.top - top :, matte.left - left :][: matte.values.shape[0], : matte.values.shape[1]] = matte.values
            now /= 255
        average = np.zeros_like(now)
        average[self._top - top :, self._left - left :][:height, :width] = self._values
        average -= now
        average *= stillness[top:bottom, left:right]
        average *= smooth
        average += now
        if covers:
            np.maximum(average, now, out=average)
        x, y, width, height = import_cv2().boundingRect((average >= FAINT).view(np.uint8))
        if not (width and height):
            return None
        return _Average(left + x, top + y, average[y : y + height, x : x + width].copy())
