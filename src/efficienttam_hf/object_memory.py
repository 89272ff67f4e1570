"""The memories of one object, by frame, and the choice of those that a frame attends to.

`ObjectMemory` keeps an entry for each conditioning frame and each tracked frame. `select` returns the entries that a
frame attends to, which a strategy chooses (`memory_selection.py`). `forget` bounds the RAM: it drops entries that are
too far away and that the strategy no longer uses. This file only handles frame numbers and does not read the content
of an entry, so that sessions, training and the tracker on exported graphs without torch (`export/`) share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .memory_selection import FrameChoice, MemoryStrategy, Recent, closest_conditioning_frames, make_strategy
from .object_competition import NEVER
from .tracking_rules import Direction, TrackingRules


__all__ = ["MemoryEntry", "MemorySelection", "ObjectMemory", "closest_conditioning_frames"]


class MemoryEntry(Protocol):
    """The part of an entry that this file reads. An entry is one object on one frame, such as `memory.FrameMemory`.

    Attributes:
        spatial: the spatial memory of the frame; `None` if the memory encoder was not run.
    """

    spatial: Any | None

    def offloaded(self) -> MemoryEntry:
        """A compact copy of the entry, for frames that tracking has left behind."""


@dataclass
class MemorySelection:
    """The entries that a frame attends to: `(entry, temporal index)` pairs of spatial memories, and pointer entries.

    `weights`, if given, has one factor for each spatial memory, by which it is multiplied.
    """

    spatial: list[tuple[Any, int]]  # entries of the backend's own kind, each a MemoryEntry
    pointers: list[Any]
    weights: list[float] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Objects whose selections have the same shape can share a batch."""
        return len(self.spatial), len(self.pointers)


@dataclass
class ObjectMemory:
    """The memories of one object, by frame index.

    Attributes:
        conditioning: the entries of the conditioning frames.
        tracked: the entries of tracked frames, corrected ones included. If the strategy follows several paths, these
            are the entries of the best path.
        pending_conditioning, pending_tracked: pending results of prompted frames. The user may still change the
            prompts; `commit` moves the results to `conditioning` and `tracked` when tracking goes on.
        passed: the frames that tracking has passed, with its direction the last time. A prompt on such a frame is a
            correction; a prompt on any other frame makes it a conditioning frame.
        strategy: the memory strategy of this object, with its facts about past frames.
        hidden: the last frame on which the object had no mask, or gave way to another object, and the direction of
            tracking there; `None` if there was no such frame.
        references: the entries of reference images, which show the object but are no frames of the video. Every frame
            attends to all of them, as to conditioning frames, and they are never dropped.
    """

    conditioning: dict[int, MemoryEntry] = field(default_factory=dict)
    tracked: dict[int, MemoryEntry] = field(default_factory=dict)
    pending_conditioning: dict[int, MemoryEntry] = field(default_factory=dict)
    pending_tracked: dict[int, MemoryEntry] = field(default_factory=dict)
    passed: dict[int, Direction] = field(default_factory=dict)
    strategy: MemoryStrategy = field(default_factory=Recent)
    hidden: tuple[int, Direction] | None = None
    references: list[MemoryEntry] = field(default_factory=list)

    def follow(self, rules: TrackingRules) -> None:
        """Use the strategy that the rules name.

        If its name or its options differ from the present strategy's, the facts about past frames are lost.
        """
        if not self.strategy.follows(rules.memory_selection, rules.memory_selection_options):
            self.strategy = make_strategy(rules.memory_selection, rules.memory_selection_options)

    def hidden_at(self, direction: Direction) -> float:
        """The last time at which the object was hidden, as a number that grows in the direction of tracking."""
        if self.hidden is None or self.hidden[1] != direction:
            return NEVER
        return float(self.hidden[0] * direction.step)

    @property
    def is_defined(self) -> bool:
        """Whether the object has a conditioning frame or a reference image, so that it can be tracked."""
        return self.is_begun or bool(self.pending_conditioning)

    @property
    def is_begun(self) -> bool:
        """Whether a frame can attend to a conditioning frame, or to a reference image."""
        return bool(self.conditioning or self.references)

    def find(self, frame_idx: int) -> MemoryEntry | None:
        """The newest entry of a frame, or `None`."""
        for entries in (self.pending_conditioning, self.pending_tracked, self.conditioning, self.tracked):
            if frame_idx in entries:
                return entries[frame_idx]
        return None

    def commit(self, rules: TrackingRules) -> None:
        """Commit pending results. A conditioning frame keeps its memory even if it was also corrected."""
        prompted = [*self.pending_conditioning, *self.pending_tracked]
        for frame_idx, entry in self.pending_conditioning.items():
            self.tracked.pop(frame_idx, None)
            self.conditioning[frame_idx] = entry
        for frame_idx, entry in self.pending_tracked.items():
            if frame_idx not in self.conditioning:
                self.tracked[frame_idx] = entry
        self.pending_conditioning.clear()
        self.pending_tracked.clear()
        for frame_idx in prompted:
            self.clear_around(frame_idx, rules)

    def clear_around(self, frame_idx: int, rules: TrackingRules) -> None:
        """Drop the entries of tracked frames around a prompted frame, if `clear_non_cond_mem_around_input` is set.

        These entries may show the object as it was before the correction. As published, they are the entries within
        `num_maskmem` memories on either side, and of the prompted frame itself unless it is a conditioning frame.
        """
        if rules.clear_non_cond_mem_around_input:
            distance = rules.num_maskmem * rules.memory_temporal_stride_for_eval
            for tracked in self.strategy.tracked(self):
                for t in range(frame_idx - distance, frame_idx + distance + 1):
                    tracked.pop(t, None)

    def clear_prompts(self, frame_idx: int) -> None:
        """Remove the prompts of a frame: a conditioning frame becomes a tracked frame."""
        self.pending_conditioning.pop(frame_idx, None)
        self.pending_tracked.pop(frame_idx, None)
        entry = self.conditioning.pop(frame_idx, None)
        if entry is not None:
            self.passed.pop(frame_idx, None)
            self.tracked[frame_idx] = entry

    def select(self, frame_idx: int, direction: Direction, rules: TrackingRules) -> MemorySelection:
        """Select the memories of the best path that `frame_idx` attends to when it is tracked in a direction.

        The strategy chooses the frames; chosen frames without an entry are left out. A conditioning frame that is
        still ahead contributes no object pointer. Reference images come first, whatever the strategy chooses.

        Raises:
            ValueError: if the object has neither a conditioning frame nor a reference image.
        """
        self._check(rules)
        choice = self.strategy.choose(self, frame_idx, direction, rules)
        return self._selection(choice, self.tracked, frame_idx, direction, rules)

    def select_paths(self, frame_idx: int, direction: Direction, rules: TrackingRules) -> list[MemorySelection]:
        """Select the memories of each path that the strategy follows, the best path first. Most strategies have one.

        Raises:
            ValueError: if the object has neither a conditioning frame nor a reference image.
        """
        self._check(rules)
        choices = self.strategy.choices(self, frame_idx, direction, rules)
        return [self._selection(choice, tracked, frame_idx, direction, rules) for choice, tracked in choices]

    def _check(self, rules: TrackingRules) -> None:
        if not self.is_begun:
            raise ValueError("An object without a prompted frame or a reference image cannot be tracked.")
        self.follow(rules)

    def _selection(
        self,
        choice: FrameChoice,
        tracked: Mapping[int, MemoryEntry],
        frame_idx: int,
        direction: Direction,
        rules: TrackingRules,
    ) -> MemorySelection:
        """The entries of the chosen frames, among the conditioning frames and the tracked frames of a path."""

        def other(t: int) -> MemoryEntry | None:
            # A conditioning frame that is not among the chosen conditioning frames can be chosen as one of the others.
            return tracked.get(t) or (self.conditioning.get(t) if t not in choice.conditioning else None)

        chosen = [(t, self.conditioning.get(t) or tracked[t]) for t in choice.conditioning]
        spatial = [(t, entry, rules.num_maskmem - 1) for t, entry in chosen]
        spatial += [(t, entry, index) for t, index in choice.spatial if (entry := other(t)) is not None]
        spatial = [(t, entry, index) for t, entry, index in spatial if entry.spatial is not None]
        pointers = [entry for t, entry in chosen if not direction.is_ahead(t, frame_idx)]
        pointers += [entry for t in choice.pointers if (entry := other(t)) is not None]
        weights = None if choice.weights is None else [choice.weights.get(t, 1.0) for t, _, _ in spatial]
        shown = [(entry, rules.num_maskmem - 1) for entry in self.references if entry.spatial is not None]
        return MemorySelection(
            shown + [(entry, index) for _, entry, index in spatial],
            [*self.references, *pointers],
            None if weights is None else [1.0] * len(shown) + weights,
        )

    def forget(self, frame_idx: int, direction: Direction, history: int, rules: TrackingRules) -> None:
        """Drop tracked entries that are far from `frame_idx` and from every conditioning frame, and not in use.

        After this, each path has at most `(conditioning frames + 1) * (2 * history + 1)` entries and those that the
        next frame attends to, independently of the length of the video. An entry that the next frame does not attend
        to can be dropped, because a strategy that has skipped an entry never uses it later.

        Args:
            frame_idx: the frame that was just tracked.
            direction: the direction of tracking.
            history: distance in frames beyond which an entry is far; at least `rules.reach` is used.
            rules: the rules of tracking.
        """
        reach = max(history, rules.reach)
        anchors = (frame_idx, *self.conditioning, *self.pending_conditioning)
        remembered = {t for tracked in self.strategy.tracked(self) for t in tracked}
        far = [t for t in remembered.union(self.passed) if all(abs(t - anchor) > reach for anchor in anchors)]
        if far and self.is_begun and rules.memory_selection != Recent.name:
            self.follow(rules)
            choices = self.strategy.choices(self, frame_idx + direction.step, direction, rules)
            in_use = {t for choice, _ in choices for t in choice.frames}
            far = [t for t in far if t not in in_use]
        for t in far:
            for tracked in self.strategy.tracked(self):
                tracked.pop(t, None)
            self.passed.pop(t, None)
        kept = remembered.difference(far)
        self.strategy.forget({*kept, *self.conditioning, *self.pending_tracked, *self.pending_conditioning})

    def offload(self, frame_idx: int, reach: int) -> None:
        """Replace the entries that are now more than `reach` frames away from `frame_idx` by compact copies."""
        for t in (frame_idx - reach - 1, frame_idx + reach + 1):
            compact: dict[int, MemoryEntry] = {}  # by the entry's identity, because paths share entries
            for tracked in self.strategy.tracked(self):
                if t in tracked:
                    if id(tracked[t]) not in compact:
                        compact[id(tracked[t])] = tracked[t].offloaded()
                    tracked[t] = compact[id(tracked[t])]
