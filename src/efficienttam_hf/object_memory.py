"""Which memories a frame looks at: one object's memories by frame, and the rule that chooses among them.

`ObjectMemory` keeps, for one object, an entry a frame: the conditioning frames (those a user prompted) and the tracked
ones. `select` is the rule of which of them a frame looks at; `forget` is the bound: entries out of reach go. All of it
is about frame indices. What an entry holds is not looked into, so sessions, training and the tracker that runs on
exported graphs without torch (`export/`) share it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol


class MemoryEntry(Protocol):
    """One object on one frame, as far as the rule goes. `memory.FrameMemory` is the one that sessions keep.

    Attributes:
        spatial: the memory of the frame; `None` where the memory encoder was not run.
        tracked_in_reverse: direction in which propagation passed this frame; `None` where it has not.
    """

    spatial: Any | None
    tracked_in_reverse: bool | None

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
            the prompts; `commit` moves them over when propagation goes on.
    """

    conditioning: dict[int, MemoryEntry] = field(default_factory=dict)
    tracked: dict[int, MemoryEntry] = field(default_factory=dict)
    pending_conditioning: dict[int, MemoryEntry] = field(default_factory=dict)
    pending_tracked: dict[int, MemoryEntry] = field(default_factory=dict)

    def find(self, frame_idx: int) -> MemoryEntry | None:
        """The newest entry of a frame, or `None`."""
        for entries in (self.pending_conditioning, self.pending_tracked, self.conditioning, self.tracked):
            if frame_idx in entries:
                return entries[frame_idx]
        return None

    def direction(self, frame_idx: int) -> bool | None:
        """Whether propagation passed the frame in reverse; `None` where it has not passed (or it was forgotten)."""
        for entries in (self.conditioning, self.tracked):
            if frame_idx in entries:
                return entries[frame_idx].tracked_in_reverse
        return None

    def commit(self) -> None:
        """Let pending results count. A conditioning frame keeps its memory against a correction of the same frame."""
        for frame_idx, entry in self.pending_conditioning.items():
            entry.tracked_in_reverse = self.direction(frame_idx)
            self.tracked.pop(frame_idx, None)
            self.conditioning[frame_idx] = entry
        for frame_idx, entry in self.pending_tracked.items():
            if frame_idx not in self.conditioning:
                entry.tracked_in_reverse = self.direction(frame_idx)
                self.tracked[frame_idx] = entry
        self.pending_conditioning.clear()
        self.pending_tracked.clear()

    def clear_prompts(self, frame_idx: int) -> None:
        """Take the prompts of a frame back: a conditioning frame becomes one that merely was seen."""
        self.pending_conditioning.pop(frame_idx, None)
        self.pending_tracked.pop(frame_idx, None)
        entry = self.conditioning.pop(frame_idx, None)
        if entry is not None:
            entry.tracked_in_reverse = None
            self.tracked[frame_idx] = entry

    def select(
        self,
        frame_idx: int,
        reverse: bool,
        num_maskmem: int,
        max_object_pointers: int,
        max_cond_frame_num: int = -1,
    ) -> MemorySelection:
        """The memories that `frame_idx` looks at when it is tracked in the given direction.

        Spatial memories: the conditioning frames, and of the last `num_maskmem - 1` frames those there are. Pointers:
        of the conditioning frames that are not ahead, and of the last `max_object_pointers - 1` frames.

        Raises:
            ValueError: if the object has no conditioning frame.
        """
        if not self.conditioning:
            raise ValueError("An object without a prompted frame cannot be tracked.")
        step = 1 if reverse else -1
        chosen = closest_conditioning_frames(frame_idx, self.conditioning, max_cond_frame_num)

        def recent(distance: int) -> MemoryEntry | None:
            # A conditioning frame that was not chosen still counts as one of the last frames, if it is.
            t = frame_idx + step * distance
            return self.tracked.get(t) or (self.conditioning.get(t) if t not in chosen else None)

        spatial = [(self.conditioning[t], num_maskmem - 1) for t in chosen]
        for distance in range(num_maskmem - 1, 0, -1):
            entry = recent(distance)
            if entry is not None:
                spatial.append((entry, distance - 1))
        spatial = [(entry, index) for entry, index in spatial if entry.spatial is not None]

        pointers = [self.conditioning[t] for t in chosen if (t >= frame_idx if reverse else t <= frame_idx)]
        for distance in range(1, max_object_pointers):
            entry = recent(distance)
            if entry is not None:
                pointers.append(entry)
        return MemorySelection(spatial, pointers)

    def forget(self, frame_idx: int, reach: int) -> None:
        """Drop tracked entries farther than `reach` frames from `frame_idx` and from every conditioning frame.

        Bounds memory by `(conditioning frames + 1) * (2 * reach + 1)` entries, whatever the length of the video.
        """
        anchors = (frame_idx, *self.conditioning, *self.pending_conditioning)
        for t in [t for t in self.tracked if all(abs(t - anchor) > reach for anchor in anchors)]:
            del self.tracked[t]

    def offload(self, frame_idx: int, reach: int) -> None:
        """Move the entries that `frame_idx` has just left more than `reach` behind to the CPU, in compact form."""
        for t in (frame_idx - reach - 1, frame_idx + reach + 1):
            if t in self.tracked:
                self.tracked[t] = self.tracked[t].offloaded()
