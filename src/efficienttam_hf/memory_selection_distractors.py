"""Memory selection among similar objects, as in DAM4SAM (CVPR 2025, arXiv 2411.17576; EfficientTAM: arXiv 2509.13864).

Memory has two parts. The recent appearance memory (RAM) holds the present appearance of the object: the frame just
behind, and earlier frames at distances of five, without frames on which the object was not visible. The
distractor-resolving memory (DRM) separates the object from similar ones: it holds the first conditioning frame, and
frames on which the decoder was certain of the object while another proposal covered something else. Such a frame is
promoted: from then on it is used like a conditioning frame.

Source: `dam4sam_tracker.py` and `_prepare_memory_conditioned_features` of its repository. Areas and boxes are measured
on masks at the decoder's resolution; the original uses the video's. Their ratios differ only by rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .memory_selection import FrameChoice, FrameObservation, Recent
from .memory_selection_motion import box_iou, mask_box
from .tracking_rules import Direction, TrackingRules


if TYPE_CHECKING:
    from .object_memory import ObjectMemory


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest connected component of a (h, w) bool mask; neighbours share a side or a corner."""
    parent: list[int] = []
    size: list[int] = []
    runs: list[tuple[int, int, int]] = []  # row, first and last column + 1 of each run of true pixels
    previous = range(0)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for row in np.flatnonzero(mask.any(axis=1)).tolist():
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask[row].astype(np.int8), [0]])))
        begin = len(runs)
        for first, end in edges.reshape(-1, 2).tolist():
            index = len(runs)
            runs.append((row, first, end))
            parent.append(index)
            size.append(end - first)
            for other in previous:
                above, from_, to = runs[other]
                if above == row - 1 and from_ <= end and first <= to and root(other) != root(index):
                    size[root(other)] += size[root(index)]
                    parent[root(index)] = root(other)
        previous = range(begin, len(runs))
    kept = np.zeros_like(mask)
    if runs:
        largest = max((i for i in range(len(runs)) if parent[i] == i), key=lambda i: size[i])
        for index, (row, first, end) in enumerate(runs):
            if root(index) == largest:
                kept[row, first:end] = True
    return kept


@dataclass
class DistractorAware(Recent):
    """DAM4SAM's rule.

    Args:
        max_drm_frames: largest number of frames that are used without an order in time: always the first conditioning
            frame, then the nearest one behind the frame just behind, then the closest others.
        ram_stride: distance in frames between the earlier frames of the recent appearance memory.
        promotion_iou: a promoted frame's mask has a predicted IoU above this.
        promotion_area: bounds of the ratio of a promoted mask's area to the median of the last ten areas above 0.
        promotion_distance: more frames than this have passed since the last promotion.
        promotion_overlap: for some other proposal, the box of the mask has at most this IoU with the box around the
            mask and the largest component that the proposal adds to it.
    """

    name: ClassVar[str] = "distractor_aware"
    observes: ClassVar[bool] = True
    needs_masks: ClassVar[bool] = True
    max_drm_frames: int = 4
    ram_stride: int = 5
    promotion_iou: float = 0.8
    promotion_area: tuple[float, float] = (0.8, 1.2)
    promotion_distance: int = 5
    promotion_overlap: float = 0.7
    promoted: set[int] = field(default_factory=set, init=False, repr=False)
    _areas: list[int] = field(default_factory=list, init=False, repr=False)
    _last_promotion: int | None = field(default=None, init=False, repr=False)
    _direction: Direction | None = field(default=None, init=False, repr=False)

    def choose(self, memory: ObjectMemory, frame_idx: int, direction: Direction, rules: TrackingRules) -> FrameChoice:
        step, nearest = direction.step, frame_idx - direction.step
        defining = {*memory.conditioning, *(t for t in self.promoted if t in memory.tracked)}
        drm = self._drm(memory, defining, frame_idx, direction, rules)
        visible = [
            t
            for t in self._behind(memory, frame_idx, direction, drm)
            if t == nearest or (t not in defining and self._shows(t))
        ]
        ram: list[int] = []
        at = nearest * step  # positions grow in the direction of tracking
        for slot in range(max(rules.num_maskmem - len(drm), 1)):
            stride = 1 if slot == 0 else self.ram_stride
            if slot:
                at = (at - 1) // stride * stride
            candidates = [t for t in visible if t * step <= at and (at - t * step) % stride == 0]
            if slot == 0 and candidates and candidates[0] == nearest and not self._shows(nearest):
                candidates = candidates[1:]
            if not candidates:
                break
            ram.append(candidates[0])
            at = candidates[0] * step
        pointers = [t for t in rules.pointer_frames(frame_idx, direction) if t not in drm and self._shows(t)]
        return FrameChoice(drm, [(t, rank) for rank, t in enumerate(ram)][::-1], pointers)

    def _drm(
        self, memory: ObjectMemory, defining: set[int], frame_idx: int, direction: Direction, rules: TrackingRules
    ) -> list[int]:
        nearest = frame_idx - direction.step
        in_order = sorted(memory.conditioning, key=lambda t: t * direction.step)
        behind = [t for t in defining if direction.is_ahead(nearest, t)]
        chosen = [max(behind, key=lambda t: t * direction.step)] if behind else []
        chosen += [t for t in in_order[:1] if t not in chosen]
        others = sorted((t for t in defining if t not in chosen and t != nearest), key=lambda t: abs(t - frame_idx))
        limit = min(self.max_drm_frames, rules.num_maskmem - 1)
        return (chosen + others)[: max(limit, 1)]

    def _shows(self, frame_idx: int) -> bool:
        facts = self.facts.get(frame_idx)
        return facts is None or facts.area > 0

    def observe(self, frame_idx: int, observation: FrameObservation, direction: Direction | None) -> None:
        super().observe(frame_idx, observation, direction)
        self.promoted.discard(frame_idx)
        if direction is None:
            return
        if direction != self._direction:
            self._areas, self._last_promotion, self._direction = [], None, direction
        self._areas = [*self._areas[-299:], observation.area]
        if self._is_promoted(frame_idx, observation):
            self.promoted.add(frame_idx)
            self._last_promotion = frame_idx

    def _is_promoted(self, frame_idx: int, observation: FrameObservation) -> bool:
        if observation.area == 0 or observation.score <= 0 or len(self._areas) < 2:
            return False
        ratio = observation.area / float(np.median([area for area in self._areas if area > 0][-10:]))
        since = None if self._last_promotion is None else abs(frame_idx - self._last_promotion)
        return (
            observation.iou > self.promotion_iou
            and self.promotion_area[0] <= ratio <= self.promotion_area[1]
            and (since is None or since > self.promotion_distance)
            and self._distractor_overlap(observation) <= self.promotion_overlap
        )

    @staticmethod
    def _distractor_overlap(observation: FrameObservation) -> float:
        """The smallest IoU in the rule of `promotion_overlap`; 1 if no proposal adds anything to the mask."""
        mask = observation.masks[observation.chosen]
        box, smallest = mask_box(mask), 1.0
        assert box is not None  # the chosen mask is not empty, see `_is_promoted`
        for index, proposal in enumerate(observation.masks):
            added = proposal & ~mask
            if index != observation.chosen and added.any():
                smallest = min(smallest, box_iou(box, mask_box(largest_component(added) | mask)))
        return smallest

    def forget(self, kept: Iterable[int]) -> None:
        kept = set(kept)
        super().forget(kept)
        self.promoted &= kept
