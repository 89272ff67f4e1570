"""Follows objects through a clip with a teacher that segments single pictures.

Optical flow carries a mask to the next frame. There, the mask's box, its innermost point and the mask itself prompt the
teacher. If the teacher's mask overlaps enough with the carried mask, it is the object's mask on that frame. The same is
done backward from the last mask, and a frame is kept if both passes agree. A track whose backward pass does not return
to its seed has failed, and is tried again over half its length.

On a frame without a mask, the object may be hidden, gone, or only lost by the teacher: there it is unknown, not absent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .flow import carry_mask, flow_between, small_grey
from .proposals import (
    ObjectMask,
    ProposalOptions,
    border_share,
    box_prompts,
    inner_point,
    mask_box,
    mask_iou,
    prompted_object,
    propose_objects,
)
from .teachers import Prompt, Teacher, View


__all__ = ["ClipFrames", "Track", "TrackOptions", "track_clip"]


@dataclass(frozen=True)
class TrackOptions:
    """How objects are followed.

    Attributes:
        min_overlap: the smallest IoU of the teacher's mask with the carried mask.
        min_agreement: the smallest IoU of the forward and the backward mask of a frame.
        min_iou: the teacher's smallest predicted IoU on a frame.
        max_gap: the number of successive frames on which an object may be lost before its track ends.
        area_change: the largest factor by which an object may grow or shrink from one frame to the next.
        min_frames: a track with masks on fewer frames is left out.
        max_objects: the largest number of objects of a clip.
    """

    min_overlap: float = 0.6
    min_agreement: float = 0.75
    min_iou: float = 0.6
    max_gap: int = 2
    area_change: float = 1.8
    min_frames: int = 4
    max_objects: int = 4


@dataclass
class Track:
    """An object of a clip.

    Attributes:
        masks: bool (height, width) by frame, for the frames on which the object is known.
        iou, stability: the means of predicted IoU and stability over these frames.
        agreement: the mean IoU of the forward and the backward masks.
        seed_frame: the frame on which the object was proposed.
        part_of: the position of the track of which this object is a part, or None.
    """

    masks: dict[int, np.ndarray]
    iou: float
    stability: float
    agreement: float
    seed_frame: int = 0
    part_of: int | None = None


@dataclass
class ClipFrames:
    """The frames of a clip to be labelled, and frames between them.

    Attributes:
        images: uint8 (height, width, 3) RGB, the frames to label.
        between: for each pair of successive frames, the frames between them in order; may be empty.
    """

    images: list[np.ndarray]
    between: list[list[np.ndarray]] = field(default_factory=list)


class _Footage:
    """The views and flows of a clip, each of which is computed once."""

    def __init__(self, clip: ClipFrames, teacher: Teacher) -> None:
        self.images, self.teacher = clip.images, teacher
        self._views: dict[int, View] = {}
        self._flows: dict[tuple[int, int], list[np.ndarray]] = {}
        greys = [small_grey(image) for image in clip.images]
        between = clip.between or [[] for _ in greys[1:]]
        self._ways = [
            [greys[k], *(small_grey(image) for image in between[k]), greys[k + 1]] for k in range(len(greys) - 1)
        ]

    def view(self, frame: int) -> View:
        """Return the teacher's view of a frame."""
        if frame not in self._views:
            self._views[frame] = self.teacher.look_at(self.images[frame])
        return self._views[frame]

    def carry(self, mask: np.ndarray, source: int, target: int) -> np.ndarray:
        """Carry a mask, bool (height, width), from a frame to the next or the previous one."""
        if (source, target) not in self._flows:
            way = self._ways[min(source, target)]
            way = way if target > source else way[::-1]
            self._flows[source, target] = [flow_between(a, b) for a, b in zip(way, way[1:], strict=False)]
        for flow in self._flows[source, target]:
            mask = carry_mask(mask, flow)
        return mask

    def motion(self, frame: int) -> np.ndarray:
        """Return float (h, w), the movement of each pixel to the next frame relative to that of most of the picture."""
        other = frame + 1 if frame + 1 < len(self.images) else frame - 1
        self.carry(np.zeros(self.images[0].shape[:2], dtype=bool), other, frame)
        flow = np.sum(self._flows[other, frame], axis=0)
        return np.linalg.norm(flow - _dominant(flow), axis=-1)


def track_clip(
    clip: ClipFrames,
    teacher: Teacher,
    proposals: ProposalOptions,
    options: TrackOptions,
    seed_frames: Sequence[int] = (0,),
    proposer: Callable[[np.ndarray], list[Prompt]] | None = None,
    given: Sequence[Prompt] = (),
) -> list[Track]:
    """Return the objects of a clip, those that move independently first.

    Args:
        clip: at least two frames.
        teacher: the model that draws the masks.
        proposals: which of its masks are objects on the seed frames.
        options: how objects are followed, and which are kept.
        seed_frames: the frames on which objects are searched. Objects that are known from an earlier one are skipped.
        proposer: returns prompts for whole objects in a picture (`SaliencyProposer`), which are used first.
        given: prompts of a person on the first frame, one for each object. Then these objects are followed, and no
            others are searched.
    """
    footage = _Footage(clip, teacher)
    tracks: list[Track] = []
    if given:
        found = (_track(footage, prompted_object(footage.view(0), prompt), 0, options) for prompt in given)
        return [track for track in found if track is not None]
    for seed_frame in seed_frames:
        size = clip.images[seed_frame].shape[:2]
        motion = footage.motion(seed_frame)
        prompts = proposer(clip.images[seed_frame]) if proposer else []
        prompts += box_prompts(_moving(motion), size)
        prompts += [Prompt(prompt.points) for prompt in prompts]
        seeds = propose_objects(footage.view(seed_frame), size, proposals, prompts)
        seeds = [seed for seed in seeds if seed.part_of is None and not _known(seed, tracks, seed_frame)]
        seeds.sort(key=lambda seed: -_interest(seed, motion))
        for seed in seeds[: max(0, options.max_objects - len(tracks)) * 2]:
            if len(tracks) < options.max_objects:
                track = _track(footage, seed, seed_frame, options)
                if track is not None:
                    tracks.append(track)
    return tracks


def _track(footage: _Footage, seed: ObjectMask, seed_frame: int, options: TrackOptions) -> Track | None:
    """Follow an object in both directions; None if it is known on too few frames."""
    masks: dict[int, np.ndarray] = {}
    judged: dict[int, tuple[float, float, float]] = {}
    for direction in (1, -1):
        kept = _checked_way(footage, seed, seed_frame, direction, options)
        masks |= {frame: mask for frame, (mask, _) in kept.items()}
        judged |= {frame: scores for frame, (_, scores) in kept.items()}
    if len(masks) < min(options.min_frames, len(footage.images)):
        return None
    iou, stability, agreement = (float(np.mean(values)) for values in zip(*judged.values(), strict=True))
    return Track({frame: masks[frame] for frame in sorted(masks)}, iou, stability, agreement, seed_frame)


_Known = dict[int, tuple[np.ndarray, tuple[float, float, float]]]


def _checked_way(footage: _Footage, seed: ObjectMask, seed_frame: int, direction: int, options: TrackOptions) -> _Known:
    """Return the frames on one side of the seed on which both passes agree, with the seed; empty if there are none."""
    end = len(footage.images) - 1 if direction > 0 else 0
    while end != seed_frame:
        there = _follow(footage, seed.mask, seed_frame, end, options)
        if not there:
            return {}
        furthest = max(there, key=lambda frame: abs(frame - seed_frame))
        back = _follow(footage, there[furthest][0], furthest, seed_frame, options)
        home = back.get(seed_frame)
        agreement = mask_iou(home[0], seed.mask) if home else 0.0
        if agreement >= options.min_agreement:
            known: _Known = {seed_frame: (seed.mask, (seed.iou, seed.stability, agreement))}
            for frame, (mask, iou, stability) in there.items():
                agreement = 1.0 if frame == furthest else mask_iou(mask, back[frame][0]) if frame in back else 0.0
                if agreement >= options.min_agreement:
                    known[frame] = mask, (iou, stability, agreement)
            return known
        end = seed_frame + direction * (abs(furthest - seed_frame) // 2)
    return {}


def _follow(
    footage: _Footage, mask: np.ndarray, start: int, end: int, options: TrackOptions
) -> dict[int, tuple[np.ndarray, float, float]]:
    """Follow a mask from `start` to `end`; return (mask, predicted IoU, stability) by frame where it is found."""
    found: dict[int, tuple[np.ndarray, float, float]] = {}
    direction, lost, area = (1 if end > start else -1), 0, int(mask.sum())
    for frame in range(start + direction, end + direction, direction):
        mask = footage.carry(mask, frame - direction, frame)
        if mask.sum() < 16:
            break
        prompt = Prompt(inner_point(mask), mask_box(mask), mask)
        answers = footage.view(frame).segment(prompt)
        best = max(answers, key=lambda answer: mask_iou(answer.mask, mask))
        new_area = int(best.mask.sum())
        growth = max(new_area, area) / max(1, min(new_area, area))
        overlaps = mask_iou(best.mask, mask) >= options.min_overlap
        if overlaps and best.iou >= options.min_iou and growth <= options.area_change ** (lost + 1):
            mask, area, lost = best.mask, new_area, 0
            found[frame] = mask, best.iou, best.stability
        else:
            lost += 1
            if lost > options.max_gap:
                break
    return found


def _known(seed: ObjectMask, tracks: Sequence[Track], frame: int) -> bool:
    """Whether a proposal overlaps with an object that is tracked already."""
    masks = [track.masks[frame] for track in tracks if frame in track.masks]
    return any((mask & seed.mask).sum() > 0.5 * min(mask.sum(), seed.mask.sum()) for mask in masks)


def _interest(seed: ObjectMask, motion: np.ndarray) -> float:
    """Return a score for the order of proposals: high for confident, moving, large objects off the border."""
    import cv2

    small = cv2.resize(seed.mask.astype(np.uint8), motion.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    moved = float(motion[small].mean()) if small.any() else 0.0
    size = min(1.0, float(seed.mask.mean()) / 0.03)
    return seed.score + seed.is_whole + min(moved, 8.0) / 4 + 0.5 * size - 4 * border_share(seed.mask)


def _dominant(flow: np.ndarray) -> np.ndarray:
    """Return the flow of the camera (h, w, 2): the affine motion that most of the picture follows."""
    import cv2

    height, width = flow.shape[:2]
    y, x = np.mgrid[8:height:16, 8:width:16]
    source = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    matrix, _ = cv2.estimateAffine2D(source, source + flow[y.ravel(), x.ravel()], ransacReprojThreshold=2.0)
    if matrix is None:
        return np.median(flow, axis=(0, 1))
    grid_y, grid_x = np.mgrid[:height, :width]
    grid = np.stack([grid_x, grid_y, np.ones_like(grid_x)], axis=-1)
    return grid @ matrix.T - grid[..., :2]


def _moving(motion: np.ndarray) -> np.ndarray:
    """Return bool (h, w), the regions that move independently of the camera."""
    import cv2

    smooth = cv2.GaussianBlur(motion.astype(np.float32), (0, 0), max(motion.shape) / 100)
    return smooth > max(1.0, 0.3 * float(smooth.max()))
