"""Memory selection by several hypotheses, as in the paper of SAM2Long (arXiv 2410.16268); its code was not consulted.

A wrong mask in memory leads to wrong masks on later frames. Therefore an object follows several paths, each with its
own memories. On every frame the mask decoder makes proposals for each path, the branches with the highest scores are
kept as the new paths, and the best path's mask becomes the result. This helps if the correct mask was not the
decoder's first choice on some frames. Memory attention, the mask decoder and the memory encoder run once for each path.

The paper uses the masks of the path that is best at the end of the video. A stream cannot wait for that: here the
result of a frame is the mask of the path that is best at that frame. `get_frame_output` returns the masks of the path
that is best now, for the frames that the session keeps (`keep_history`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .memory_selection import FrameChoice, FrameFacts, FrameObservation, Recent, by_rank, closest_conditioning_frames
from .tracking_rules import Direction, TrackingRules


if TYPE_CHECKING:
    from .object_memory import MemoryEntry, ObjectMemory


@dataclass
class Path:
    """One hypothesis about the object: its tracked entries and facts by frame.

    `score` is the sum of log(predicted IoU) over the path's frames, minus the sum of the best path.
    """

    tracked: dict[int, MemoryEntry]
    facts: dict[int, FrameFacts]
    score: float = 0.0


@dataclass
class Hypotheses(Recent):
    """SAM2Long's rule. A prompt or a change of direction ends all paths except the best, from which new ones branch.

    The paper leaves some details open. Here object pointers come from the same frames as spatial memories, up to their
    own limit; conditioning frames are not weighted; a single memory has the mean of `path_weights`.

    Args:
        num_paths: largest number of paths that are kept on each frame.
        path_iou_threshold: a path attends to frames with a predicted IoU above this on which the object is present.
        path_certainty: if the absolute object score logit of every path is below this number, paths are kept whose
            predicted IoU differs in the first two decimals; otherwise those with the highest scores are kept.
        path_weights: spatial memories are sorted by object score and multiplied by evenly spaced factors from the
            first of these numbers to the second.
    """

    name: ClassVar[str] = "hypotheses"
    observes: ClassVar[bool] = True
    num_paths: int = 3
    path_iou_threshold: float = 0.1
    path_certainty: float = 2.0
    path_weights: tuple[float, float] = (0.95, 1.05)
    paths: list[Path] = field(default_factory=list, init=False, repr=False)
    _direction: Direction | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.num_paths < 1:
            raise ValueError(f"num_paths is at least 1, got {self.num_paths}.")

    def choose(self, memory: ObjectMemory, frame_idx: int, direction: Direction, rules: TrackingRules) -> FrameChoice:
        return self._choice(memory, memory.tracked, self.facts, frame_idx, direction, rules)

    def choices(
        self, memory: ObjectMemory, frame_idx: int, direction: Direction, rules: TrackingRules
    ) -> list[tuple[FrameChoice, dict[int, MemoryEntry]]]:
        if rules.non_overlap_masks_for_mem_enc:
            raise ValueError(
                "hypotheses remembers the masks of several paths, which cannot all compete with other objects' for "
                "pixels: choose another memory selection, or a model without non_overlap_masks_for_mem_enc."
            )
        if not self.paths or direction != self._direction:
            self.paths, self._direction = [Path(memory.tracked, self.facts)], direction
        self.paths[0].tracked = memory.tracked
        return [
            (self._choice(memory, path.tracked, path.facts, frame_idx, direction, rules), path.tracked)
            for path in self.paths
        ]

    def _choice(
        self,
        memory: ObjectMemory,
        tracked: dict[int, MemoryEntry],
        facts: dict[int, FrameFacts],
        frame_idx: int,
        direction: Direction,
        rules: TrackingRules,
    ) -> FrameChoice:
        conditioning = closest_conditioning_frames(frame_idx, memory.conditioning, rules.max_cond_frame_num)
        stride = rules.memory_temporal_stride_for_eval
        behind = self._behind(replace(memory, tracked=tracked), frame_idx, direction, memory.conditioning, stride)
        good = [t for t in behind if t in facts and facts[t].score > 0 and facts[t].iou > self.path_iou_threshold]
        spatial = by_rank(good, rules.num_maskmem - 1)
        in_order = sorted((t for t, _ in spatial), key=lambda t: facts[t].score)
        weights = np.linspace(*self.path_weights, len(in_order)) if len(in_order) > 1 else [np.mean(self.path_weights)]
        return FrameChoice(
            conditioning,
            spatial,
            good[: rules.max_object_pointers_in_encoder - 1],
            {t: float(weight) for t, weight in zip(in_order, weights, strict=False)},
        )

    def keep(self, frame_idx: int, seen: list[FrameObservation], direction: Direction) -> list[tuple[int, int]]:
        branches = [
            (path.score + math.log(max(float(iou), 0.0) + 1e-5), index, proposal)
            for index, (path, observation) in enumerate(zip(self.paths, seen, strict=True))
            for proposal, iou in enumerate(observation.iou_scores)
        ]
        branches.sort(key=lambda branch: -branch[0])  # the sort is stable: of equal scores, the first stays first
        if max(abs(observation.score) for observation in seen) < self.path_certainty:
            distinct: dict[float, tuple[float, int, int]] = {}
            for branch in branches:
                distinct.setdefault(round(float(seen[branch[1]].iou_scores[branch[2]]), 2), branch)
            branches = list(distinct.values())
        branches = branches[: self.num_paths]
        grown = []
        for score, index, proposal in branches:
            path, facts = self.paths[index], seen[index].with_choice(proposal).facts
            grown.append(Path(dict(path.tracked), {**path.facts, frame_idx: facts}, score - branches[0][0]))
        self.paths = grown
        return [(index, proposal) for _, index, proposal in branches]

    def store(self, memory: ObjectMemory, frame_idx: int, entries: list[MemoryEntry]) -> None:
        for path, entry in zip(self.paths, entries, strict=True):
            path.tracked[frame_idx] = entry
        memory.tracked, self.facts = self.paths[0].tracked, self.paths[0].facts

    def tracked(self, memory: ObjectMemory) -> list[dict[int, MemoryEntry]]:
        return [memory.tracked, *(path.tracked for path in self.paths[1:])]

    def observe(self, frame_idx: int, observation: FrameObservation, direction: Direction | None) -> None:
        super().observe(frame_idx, observation, direction)
        if direction is None:
            self.paths = []

    def forget(self, kept: Iterable[int]) -> None:
        kept = set(kept)
        for facts in (self.facts, *(path.facts for path in self.paths[1:])):
            for frame_idx in [t for t in facts if t not in kept]:
                del facts[frame_idx]
