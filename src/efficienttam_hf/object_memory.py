"""What one object remembers, frame by frame, and which of it a frame looks at.

`ObjectMemory` keeps an entry for each frame: the conditioning frames (those a user prompted) and the tracked ones.
`select` chooses the entries that a frame looks at, by `TrackingRules`; `forget` is the bound: entries out of reach go.
All of it is about frame indices. What an entry holds is not looked into, so that sessions, training and the tracker
that runs on exported graphs without torch (`export/`) share it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .tracking_rules import Direction, TrackingRules


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
    """The frames one object looks at from some frame: `(entry, temporal index)` pairs, and pointer entries."""

    spatial: list[tuple[MemoryEntry, int]]
    pointers: list[MemoryEntry]

    @property
    def shape(self) -> tuple[int, int]:
        """Objects whose selections agree in this can share a batch."""
        return len(self.spatial), len(self.pointers)


def closest_conditioning_frames(frame_idx: int, frames: Iterable[int], limit: int) -> list[int]:
    """Up to `limit` conditioning frames, closest in time: the nearest before, the nearest after, then any (-1: all)."""
    frames = list(frames)
    if limit == -1 or len(frames) <= limit:
        return frames
    before = [t for t in frames if t < frame_idx]
    after = [t for t in frames if t >= frame_idx]
    chosen = ([max(before)] if before else []) + ([min(after)] if after else [])
    others = sorted((t for t in frames if t not in chosen), key=lambda t: abs(t - frame_idx))
    return (chosen + others)[:limit]


@dataclass
class ObjectMemory:
    """The memories of one object, by frame index.

    Attributes:
        conditioning: frames whose prompts define the object.
        tracked: frames that were tracked (or corrected after they were).
        pending_conditioning, pending_tracked: prompted frames whose result is not used yet. A user may still change
            the prompts; `commit` moves them over when tracking goes on.
        passed: the frames that tracking has passed, with the direction in which it did last. A prompt on such a frame
            corrects what was tracked; on any other it says anew what the object is.
    """

    conditioning: dict[int, MemoryEntry] = field(default_factory=dict)
    tracked: dict[int, MemoryEntry] = field(default_factory=dict)
    pending_conditioning: dict[int, MemoryEntry] = field(default_factory=dict)
    pending_tracked: dict[int, MemoryEntry] = field(default_factory=dict)
    passed: dict[int, Direction] = field(default_factory=dict)

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
        """Let pending results count. A conditioning frame keeps its memory against a correction of the same frame."""
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
            for t in range(frame_idx - distance, frame_idx + distance + 1):
                self.tracked.pop(t, None)

    def clear_prompts(self, frame_idx: int) -> None:
        """Take the prompts of a frame back: a conditioning frame becomes one that merely was seen."""
        self.pending_conditioning.pop(frame_idx, None)
        self.pending_tracked.pop(frame_idx, None)
        entry = self.conditioning.pop(frame_idx, None)
        if entry is not None:
            self.passed.pop(frame_idx, None)
            self.tracked[frame_idx] = entry

    def select(self, frame_idx: int, direction: Direction, rules: TrackingRules) -> MemorySelection:
        """The memories that `frame_idx` looks at when it is tracked in the given direction.

        Spatial memories: the conditioning frames, and those of `TrackingRules.memory_frames` that there are. Pointers:
        those of the conditioning frames that are not ahead, and of `TrackingRules.pointer_frames`.

        Raises:
            ValueError: if the object has no conditioning frame.
        """
        if not self.conditioning:
            raise ValueError("An object without a prompted frame cannot be tracked.")
        chosen = closest_conditioning_frames(frame_idx, self.conditioning, rules.max_cond_frame_num)

        def behind(t: int) -> MemoryEntry | None:
            # A conditioning frame that was not chosen still counts as one of the frames behind, if it is.
            return self.tracked.get(t) or (self.conditioning.get(t) if t not in chosen else None)

        spatial = [(self.conditioning[t], rules.num_maskmem - 1) for t in chosen]
        spatial += [(behind(t), index) for t, index in rules.memory_frames(frame_idx, direction)]
        pointers = [self.conditioning[t] for t in chosen if not direction.is_ahead(t, frame_idx)]
        pointers += [behind(t) for t in rules.pointer_frames(frame_idx, direction)]
        return MemorySelection(
            [(entry, index) for entry, index in spatial if entry is not None and entry.spatial is not None],
            [entry for entry in pointers if entry is not None],
        )

    def forget(self, frame_idx: int, reach: int) -> None:
        """Drop tracked entries farther than `reach` frames from `frame_idx` and from every conditioning frame.

        Bounds memory by `(conditioning frames + 1) * (2 * reach + 1)` entries, whatever the length of the video.
        """
        anchors = (frame_idx, *self.conditioning, *self.pending_conditioning)
        for frames in (self.tracked, self.passed):
            for t in [t for t in frames if all(abs(t - anchor) > reach for anchor in anchors)]:
                del frames[t]

    def offload(self, frame_idx: int, reach: int) -> None:
        """Move the entries that `frame_idx` has just left more than `reach` behind to the CPU, in compact form."""
        for t in (frame_idx - reach - 1, frame_idx + reach + 1):
            if t in self.tracked:
                self.tracked[t] = self.tracked[t].offloaded()
