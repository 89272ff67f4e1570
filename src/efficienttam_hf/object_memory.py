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
    """One object on one frame, as far as the rules go. `memory.FrameMemory` is the one that sessions keep.

    Attributes:
        spatial: the spatial memory of the frame; `None` where the memory encoder was not run.
    """

    spatial: Any | None

    def offloaded(self) -> MemoryEntry:
        """The entry in compact form, for frames that tracking has left behind."""


@dataclass
class MemorySelection:
    """The entries that a frame attends to: `(entry, temporal index)` pairs of spatial memories, and pointer entries.

    `weights`, where they are given, are what the spatial memories are multiplied by, one for each.
    """

    spatial: list[tuple[Any, int]]  # entries of the backend's own kind, each a MemoryEntry
    pointers: list[Any]
    weights: list[float] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Objects whose selections agree in this can share a batch."""
        return len(self.spatial), len(self.pointers)


@dataclass
class ObjectMemory:
    """The memories of one object, by frame index.

    Attributes:
        conditioning: frames whose prompts define the object.
        tracked: frames that were tracked (or corrected after they were); of several paths, those of the best.
        pending_conditioning, pending_tracked: prompted frames whose result is not used yet. A user may still change
            the prompts; `commit` moves them over when tracking goes on.
        passed: the frames that tracking has passed, with the direction in which it did last. A prompt on such a frame
            corrects what was tracked; on any other it says anew what the object is.
        strategy: what chooses among them, with what it knows of past frames.
        hidden: the last frame on which the object had no mask, or gave way to another, and the direction of tracking
            there; `None` if there was none.
    """

    conditioning: dict[int, MemoryEntry] = field(default_factory=dict)
    tracked: dict[int, MemoryEntry] = field(default_factory=dict)
    pending_conditioning: dict[int, MemoryEntry] = field(default_factory=dict)
    pending_tracked: dict[int, MemoryEntry] = field(default_factory=dict)
    passed: dict[int, Direction] = field(default_factory=dict)
    strategy: MemoryStrategy = field(default_factory=Recent)
    hidden: tuple[int, Direction] | None = None

    def follow(self, rules: TrackingRules) -> None:
        """Take the strategy that the rules ask for; what another one has learned of past frames is dropped.

        The same strategy with other numbers is another one.
        """
        if not self.strategy.follows(rules.memory_selection, rules.memory_selection_options):
            self.strategy = make_strategy(rules.memory_selection, rules.memory_selection_options)

    def hidden_at(self, direction: Direction) -> float:
        """When the object was hidden last, growing in the direction of tracking."""
        if self.hidden is None or self.hidden[1] is not direction:
            return NEVER
        return float(self.hidden[0] * direction.step)

    @property
    def is_defined(self) -> bool:
        """Whether a prompted frame says what the object is, so that it can be tracked."""
        return bool(self.conditioning or self.pending_conditioning)

    def find(self, frame_idx: int) -> MemoryEntry | None:
        """The newest entry of a frame, or `None`."""
        for entries in (self.pending_conditioning, self.pending_tracked, self.conditioning, self.tracked):
            if frame_idx in entries:
                return entries[frame_idx]
        return None

    def commit(self, rules: TrackingRules) -> None:
        """Commit pending results. A conditioning frame keeps its memory even if it was corrected too."""
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
        """Drop what tracked frames around a prompted one remember, where the rules ask for it.

        They may show the object as it was before it was corrected. As published, the frames are those within
        `num_maskmem` memories on either side, and the prompted frame itself unless it is a conditioning frame.
        """
        if rules.clear_non_cond_mem_around_input:
            distance = rules.num_maskmem * rules.memory_temporal_stride_for_eval
            for tracked in self.strategy.tracked(self):
                for t in range(frame_idx - distance, frame_idx + distance + 1):
                    tracked.pop(t, None)

    def clear_prompts(self, frame_idx: int) -> None:
        """Take the prompts of a frame back: a conditioning frame becomes one that merely was seen."""
        self.pending_conditioning.pop(frame_idx, None)
        self.pending_tracked.pop(frame_idx, None)
        entry = self.conditioning.pop(frame_idx, None)
        if entry is not None:
            self.passed.pop(frame_idx, None)
            self.tracked[frame_idx] = entry

    def select(self, frame_idx: int, direction: Direction, rules: TrackingRules) -> MemorySelection:
        """The memories that `frame_idx` looks at when it is tracked in the given direction, of the best path.

        Spatial memories and pointers are those of the frames that the strategy chooses, as far as they are remembered;
        a conditioning frame that is ahead gives no pointer.

        Raises:
            ValueError: if the object has no conditioning frame.
        """
        self._check(rules)
        choice = self.strategy.choose(self, frame_idx, direction, rules)
        return self._selection(choice, self.tracked, frame_idx, direction, rules)

    def select_paths(self, frame_idx: int, direction: Direction, rules: TrackingRules) -> list[MemorySelection]:
        """As `select`, for each path that the strategy follows, the best first; most follow one.

        Raises:
            ValueError: if the object has no conditioning frame.
        """
        self._check(rules)
        choices = self.strategy.choices(self, frame_idx, direction, rules)
        return [self._selection(choice, tracked, frame_idx, direction, rules) for choice, tracked in choices]

    def _check(self, rules: TrackingRules) -> None:
        if not self.conditioning:
            raise ValueError("An object without a prompted frame cannot be tracked.")
        self.follow(rules)

    def _selection(
        self,
        choice: FrameChoice,
        tracked: Mapping[int, MemoryEntry],
        frame_idx: int,
        direction: Direction,
        rules: TrackingRules,
    ) -> MemorySelection:
        """The entries of a choice among the conditioning frames and the tracked ones of a path."""

        def other(t: int) -> MemoryEntry | None:
            # A conditioning frame that was not chosen as such still counts as one of the other frames, if it is.
            return tracked.get(t) or (self.conditioning.get(t) if t not in choice.conditioning else None)

        chosen = [(t, self.conditioning.get(t) or tracked[t]) for t in choice.conditioning]
        spatial = [(t, entry, rules.num_maskmem - 1) for t, entry in chosen]
        spatial += [(t, entry, index) for t, index in choice.spatial if (entry := other(t)) is not None]
        spatial = [(t, entry, index) for t, entry, index in spatial if entry.spatial is not None]
        pointers = [entry for t, entry in chosen if not direction.is_ahead(t, frame_idx)]
        pointers += [entry for t in choice.pointers if (entry := other(t)) is not None]
        weights = None if choice.weights is None else [choice.weights.get(t, 1.0) for t, _, _ in spatial]
        return MemorySelection([(entry, index) for _, entry, index in spatial], pointers, weights)

    def forget(self, frame_idx: int, direction: Direction, history: int, rules: TrackingRules) -> None:
        """Drop tracked entries that are far from `frame_idx` and from every conditioning frame, and not in use.

        Bounds memory by `(conditioning frames + 1) * (2 * history + 1)` entries and those that the next frame looks at,
        for each path that a strategy follows, whatever the length of the video. A strategy that goes back past an
        entry never comes to use it again, so what the next frame does not look at may go.

        Args:
            history: how far counts as far, in frames; at least `rules.reach` is used.
        """
        reach = max(history, rules.reach)
        anchors = (frame_idx, *self.conditioning, *self.pending_conditioning)
        remembered = {t for tracked in self.strategy.tracked(self) for t in tracked}
        far = [t for t in remembered.union(self.passed) if all(abs(t - anchor) > reach for anchor in anchors)]
        if far and self.conditioning and rules.memory_selection != Recent.name:
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
        """Move the entries that `frame_idx` has just left more than `reach` behind to the CPU, in compact form."""
        for t in (frame_idx - reach - 1, frame_idx + reach + 1):
            compact: dict[int, MemoryEntry] = {}  # by the entry's identity: paths share what they have in common
            for tracked in self.strategy.tracked(self):
                if t in tracked:
                    if id(tracked[t]) not in compact:
                        compact[id(tracked[t])] = tracked[t].offloaded()
                    tracked[t] = compact[id(tracked[t])]
