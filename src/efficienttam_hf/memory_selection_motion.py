"""Memory selection by motion, as in SAMURAI (arXiv 2411.11922, `sam2/modeling/sam2_base.py` of its repository).

A Kalman filter follows the box of the object's mask. Once it has seen enough good frames, it takes part in two
decisions: which of the decoder's proposals becomes the mask, and which frames are remembered. This helps where similar
objects pass each other, and hurts where the object or the camera jumps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .memory_selection import FrameChoice, FrameObservation, Recent, by_rank, with_nearest
from .tracking_rules import Direction, TrackingRules


if TYPE_CHECKING:
    from .object_memory import ObjectMemory


def mask_box(mask: np.ndarray) -> np.ndarray | None:
    """(x_min, y_min, x_max, y_max) of a (h, w) bool mask, in pixels; `None` where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float64)


def box_iou(a: np.ndarray, b: np.ndarray | None) -> float:
    """IoU of two boxes (x_min, y_min, x_max, y_max); 0 if `b` is `None`."""
    if b is None:
        return 0.0
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    intersection = max(0.0, width) * max(0.0, height)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - intersection
    return float(intersection / union) if union > 0 else 0.0


class BoxFilter:
    """A Kalman filter over a box with constant velocity; the state is (x, y, aspect, height) and its velocities.

    The numbers are those of ByteTrack, which SAMURAI uses: standard deviations in parts of the box's height, 1/20 for
    positions and 1/160 for velocities.
    """

    POSITION, VELOCITY = 1 / 20, 1 / 160

    def __init__(self, box: np.ndarray | None):
        measured = self._measurement(box)
        height = measured[3]
        self.mean = np.concatenate([measured, np.zeros(4)])
        position, velocity = 2 * self.POSITION * height, 10 * self.VELOCITY * height
        self.covariance = np.diag(np.square([position, position, 1e-2, position, velocity, velocity, 1e-5, velocity]))

    def predict(self) -> None:
        """Advance the state by one frame."""
        position, velocity = self.POSITION * self.mean[3], self.VELOCITY * self.mean[3]
        noise = np.square([position, position, 1e-2, position, velocity, velocity, 1e-5, velocity])
        motion = np.eye(8) + np.eye(8, k=4)
        self.mean = motion @ self.mean
        self.covariance = motion @ self.covariance @ motion.T + np.diag(noise)

    def update(self, box: np.ndarray | None) -> None:
        """Correct the prediction by the box that was measured."""
        position = self.POSITION * self.mean[3]
        noise = np.diag(np.square([position, position, 1e-1, position]))
        projected = self.covariance[:4, :4] + noise
        gain = np.linalg.solve(projected, self.covariance[:4]).T
        self.mean = self.mean + gain @ (self._measurement(box) - self.mean[:4])
        self.covariance = self.covariance - gain @ projected @ gain.T

    @property
    def box(self) -> np.ndarray:
        """The box of the state, (x_min, y_min, x_max, y_max)."""
        x, y, aspect, height = self.mean[:4]
        half = np.array([aspect * height, height]) / 2
        return np.concatenate([[x, y] - half, [x, y] + half])

    @staticmethod
    def _measurement(box: np.ndarray | None) -> np.ndarray:
        x0, y0, x1, y1 = np.zeros(4) if box is None else box
        height = (y1 - y0) or 1.0
        return np.array([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / height, height])


@dataclass
class MotionAware(Recent):
    """SAMURAI's rule. Boxes are measured on masks at the decoder's resolution; SAMURAI uses the model's input size.

    Args:
        motion_weight: weight of the motion score in the choice among proposals. SAMURAI uses 0.25 for small models and
            0.15 for large ones.
        stable_frames: number of frames that the filter follows before it takes part.
        stable_iou: predicted IoU below which the filter is restarted.
        motion_iou_threshold, motion_score_threshold, motion_box_threshold: a frame is used as a memory if its predicted
            IoU, its object score logit and its motion score (if it has one) are above these.
    """

    name: ClassVar[str] = "motion"
    observes: ClassVar[bool] = True
    needs_masks: ClassVar[bool] = True
    motion_weight: float = 0.25
    stable_frames: int = 15
    stable_iou: float = 0.3
    motion_iou_threshold: float = 0.5
    motion_score_threshold: float = 0.0
    motion_box_threshold: float = 0.0
    _filter: BoxFilter | None = field(default=None, init=False, repr=False)
    _stable: int = field(default=0, init=False, repr=False)
    _motion: float | None = field(default=None, init=False, repr=False)
    _direction: Direction | None = field(default=None, init=False, repr=False)

    def choose(self, memory: ObjectMemory, frame_idx: int, direction: Direction, rules: TrackingRules) -> FrameChoice:
        published = super().choose(memory, frame_idx, direction, rules)
        good = [t for t in self._behind(memory, frame_idx, direction, memory.conditioning) if self._is_good(t)]
        frames = with_nearest(good[: rules.max_object_pointers_in_encoder - 1], frame_idx - direction.step)
        return FrameChoice(published.conditioning, by_rank(frames, rules.num_maskmem - 1), published.pointers)

    def choose_proposal(self, observation: FrameObservation, direction: Direction) -> int:
        self._motion = None
        if direction != self._direction:  # motion in the other direction does not predict the next frame
            self._stable, self._direction = 0, direction
        if self._filter is None or self._stable == 0 or len(observation.iou_scores) == 1:
            return observation.chosen
        self._filter.predict()
        if self._stable < self.stable_frames:
            return observation.chosen
        boxes = self._boxes(observation)
        motion = np.array([box_iou(self._filter.box, box) for box in boxes])
        chosen = int((self.motion_weight * motion + (1 - self.motion_weight) * observation.iou_scores).argmax())
        self._motion = float(motion[chosen])
        return chosen

    def observe(self, frame_idx: int, observation: FrameObservation, direction: Direction | None) -> None:
        self.facts[frame_idx] = replace(observation.facts, motion=self._motion)
        box = self._boxes(observation)[observation.chosen]
        if direction is None:  # the mask comes from prompts, so the filter is restarted
            self._filter, self._stable = None, 0
        elif len(observation.iou_scores) > 1:
            self._follow(box, observation.iou)

    def _follow(self, box: np.ndarray | None, iou: float) -> None:
        if self._filter is None or self._stable == 0:
            self._filter, self._stable = BoxFilter(box), 1
        elif self._stable < self.stable_frames:
            good = iou > self.stable_iou
            if good:
                self._filter.update(box)
            self._stable = self._stable + 1 if good else 0
        elif iou < self.stable_iou:
            self._stable = 0
        else:
            self._filter.update(box)

    def _is_good(self, frame_idx: int) -> bool:
        facts = self.facts.get(frame_idx)
        return (
            facts is not None
            and facts.iou > self.motion_iou_threshold
            and facts.score > self.motion_score_threshold
            and (facts.motion is None or facts.motion > self.motion_box_threshold)
        )

    @staticmethod
    def _boxes(observation: FrameObservation) -> list[np.ndarray | None]:
        if observation.score <= 0:  # judged absent: all masks are empty
            return [None] * len(observation.iou_scores)
        return [mask_box(mask) for mask in observation.masks]
