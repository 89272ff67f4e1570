"""Decides which detections are tracked objects, which are new ones, and which are lost objects that came back.

Detections and tracked objects are compared by their masks; the mask of a detected box is the model's mask for that box
(`frame_view.py`). Boxes of things that stand before each other overlap much, although the things share no pixel, so
box overlap would take a new object for its neighbour. The rules:

- **Match.** A detection is a tracked object if their masks have an IoU of at least `match_iou`. It also is one if the
  labels agree and one mask lies within the other (`contained`): detectors and trackers often disagree about how much
  belongs to an object, and an object must not be begun twice. Pairs are formed by decreasing IoU. Two objects that
  both have an IoU above 0.5 with a detection share pixels with each other; where masks are disjoint this greedy choice
  therefore is the best assignment, and no assignment solver is needed.
- **Return.** A lost object that is detected again keeps its id if the label is the same and either the place or the
  looks fit: the detection overlaps the place where the object was last seen, not longer ago than `place_frames`, or
  its appearance is similar to the object's. Appearance is the mean of the image encoder's features over the mask, less
  the frame's mean; a frame's mean is common to all things in it and would make them all similar.
- **Birth.** Any other detection begins a new object, the best first, while there are fewer than `max_objects`.

This file uses NumPy only, and masks at the resolution of the mask decoder: what it keeps is a box and two vectors for
each object, whatever the length of the video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


__all__ = ["Candidate", "Decisions", "MatchRules", "TrackBook"]


@dataclass(frozen=True)
class MatchRules:
    """The numbers of the rules above.

    Attributes:
        match_iou: least IoU of the masks of a detection and the object that it is.
        contained: part of a mask that lies within another, from which both are one object of the same label.
        place_iou: least IoU of a detected box and the last box of the lost object that it is.
        place_frames: frames after which the last place of a lost object says nothing any more.
        similarity: least cosine of the appearances of a detection and the lost object that it is.
        returns: whether lost objects may return under their ids; otherwise they are new objects.
        max_objects: the largest number of objects.
    """

    match_iou: float = 0.5
    contained: float = 0.7
    place_iou: float = 0.3
    place_frames: int = 60
    similarity: float = 0.8
    returns: bool = True
    max_objects: int = 20


@dataclass(frozen=True)
class Candidate:
    """A detection as the rules need it.

    Attributes:
        mask: bool (h, w), at the resolution of the objects' masks.
        label: of the detection.
        appearance: (C,) float32 of length 1, or zeros.
    """

    mask: np.ndarray
    label: str | None
    appearance: np.ndarray


@dataclass
class Decisions:
    """What the detections of a frame are. Detections are named by their places in the list of candidates.

    Attributes:
        matches: the detection of each object that was detected where it is tracked.
        returns: the detection of each lost object that came back.
        births: the detections that begin new objects.
        unheeded: how many more would, if `max_objects` allowed it.
    """

    matches: dict[int, int] = field(default_factory=dict)
    returns: dict[int, int] = field(default_factory=dict)
    births: list[int] = field(default_factory=list)
    unheeded: int = 0


@dataclass
class _Record:
    """What is known of one object.

    Attributes:
        label: as detected; `None` agrees with every label.
        place: left, top, right, bottom of its last mask that was not empty.
        seen_on: the frame of that mask.
        is_lost: whether its mask was empty on the last frame.
        appearances: its first and its latest appearance.
    """

    label: str | None
    place: tuple[float, float, float, float] | None = None
    seen_on: int | None = None
    is_lost: bool = False
    appearances: list[np.ndarray] = field(default_factory=list)


class TrackBook:
    """Knows the objects of a session, and decides what detections are. See the rules at the top of this file.

    Args:
        rules: the numbers of the rules.
    """

    def __init__(self, rules: MatchRules):
        self.rules = rules
        self._records: dict[int, _Record] = {}

    @property
    def object_ids(self) -> list[int]:
        """The ids of the known objects."""
        return list(self._records)

    def lost_for(self, object_id: int, frame_idx: int) -> int:
        """The number of frames since an object was last seen; 0 if it is seen or never was."""
        record = self._records[object_id]
        return abs(frame_idx - record.seen_on) if record.is_lost and record.seen_on is not None else 0

    def begin(self, object_id: int, label: str | None) -> None:
        """Add an object."""
        self._records[object_id] = _Record(label)

    def end(self, object_id: int) -> None:
        """Forget an object."""
        self._records.pop(object_id, None)

    def observe(self, frame_idx: int, masks: Mapping[int, np.ndarray]) -> None:
        """Note where the objects are on a frame; objects without a mask (h, w) there are left as they are.

        Objects that are not known yet, such as those that a user clicked on, are added without a label.
        """
        for object_id, mask in masks.items():
            record = self._records.setdefault(object_id, _Record(None))
            record.is_lost = not mask.any()
            if not record.is_lost:
                record.place, record.seen_on = _box(mask), frame_idx

    def recall(self, appearances: Mapping[int, np.ndarray]) -> None:
        """Note what objects look like: their first appearance is kept, and their latest."""
        for object_id, appearance in appearances.items():
            if appearance.any():
                own = self._records[object_id].appearances
                own[1:] = [appearance] if own else []
                if not own:
                    own.append(appearance)

    def decide(self, frame_idx: int, masks: Mapping[int, np.ndarray], candidates: Sequence[Candidate]) -> Decisions:
        """Decide what the detections of a frame are.

        Args:
            frame_idx: the frame.
            masks: the objects' masks there, bool (h, w), after `observe`; empty ones are of lost objects.
            candidates: the detections, the best first.
        """
        decisions = Decisions()
        visible = {i: mask for i, mask in masks.items() if mask.any()}
        ids = list(visible)
        labels = [self._records[i].label for i in ids]
        iou, explained = self._compare(candidates, list(visible.values()), labels)
        for row, column in _best_pairs(iou, explained):
            decisions.matches[ids[column]] = row
        free = [row for row in range(len(candidates)) if not explained[row].any()]
        if self.rules.returns:
            lost = [i for i, record in self._records.items() if record.is_lost and i in masks]
            fits = np.array([[self._fit(frame_idx, candidates[row], i) for i in lost] for row in free], dtype=float)
            fits = fits.reshape(len(free), len(lost))
            for row, column in _best_pairs(fits, fits > 0):
                decisions.returns[lost[column]] = free[row]
        returned = set(decisions.returns.values())
        room = max(0, self.rules.max_objects - len(self._records))
        new: list[Candidate] = [candidates[row] for row in returned]
        for row in free:
            if row in returned:
                continue
            own = candidates[row]
            if self._compare([own], [c.mask for c in new], [c.label for c in new])[1].any():
                continue  # the same object twice, by two labels or in part
            new.append(own)
            if len(decisions.births) < room:
                decisions.births.append(row)
            else:
                decisions.unheeded += 1
        return decisions

    def _compare(
        self, candidates: Sequence[Candidate], masks: Sequence[np.ndarray], labels: Sequence[str | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(candidates, masks) IoU of each pair, and whether the candidate is the object with this mask and label."""
        if not candidates or not masks:
            empty = np.zeros((len(candidates), len(masks)))
            return empty, empty.astype(bool)
        ours = np.stack([candidate.mask.ravel() for candidate in candidates]).astype(np.float32)
        theirs = np.stack([mask.ravel() for mask in masks]).astype(np.float32)
        shared = ours @ theirs.T
        areas, other_areas = ours.sum(axis=1)[:, None], theirs.sum(axis=1)[None]
        iou = shared / np.maximum(areas + other_areas - shared, 1)
        within = shared / np.maximum(np.minimum(areas, other_areas), 1)
        agree = np.array([[_agree(c.label, label) for label in labels] for c in candidates])
        return iou, (iou >= self.rules.match_iou) | (agree & (within >= self.rules.contained))

    def _fit(self, frame_idx: int, candidate: Candidate, object_id: int) -> float:
        """How well a detection fits a lost object, above 0; 0 if it is another."""
        record, rules = self._records[object_id], self.rules
        if candidate.label != record.label or record.seen_on is None or record.place is None:
            return 0.0
        similarity = max((float(candidate.appearance @ own) for own in record.appearances), default=0.0)
        overlap = 0.0
        if candidate.mask.any() and abs(frame_idx - record.seen_on) <= rules.place_frames:
            overlap = _box_iou(_box(candidate.mask), record.place)
        fits = similarity >= rules.similarity or overlap >= rules.place_iou
        return max(similarity, 0.0) + overlap if fits else 0.0


def _agree(label: str | None, other: str | None) -> bool:
    """Whether two labels can be of one object: an object that a user clicked on has none and may be anything."""
    return label == other or label is None or other is None


def _best_pairs(values: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns paired by decreasing value, each at most once."""
    pairs: list[tuple[int, int]] = []
    rows, columns = np.nonzero(allowed)
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for place in np.argsort(-values[rows, columns], kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if row not in used_rows and column not in used_columns:
            pairs.append((row, column))
            used_rows.add(row)
            used_columns.add(column)
    return pairs


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """left, top, right and bottom of a mask that is not empty, where right and bottom lie behind the last pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _box_iou(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (sum(areas) - shared)
