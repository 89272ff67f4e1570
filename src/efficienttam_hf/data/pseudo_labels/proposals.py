"""The objects of one picture: a grid of clicks, the teacher's masks, and a choice among them.

As SAM's automatic mask generation does it (arXiv 2304.02643, appendix B): keep what the teacher believes in (predicted
IoU), what does not depend on the threshold (stability) and one of each group of duplicates. Beyond that a mask that
lies within another is marked as its part, as whole objects are what a tracker is mostly asked to follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .teachers import Prompt, TeacherMask, View


__all__ = [
    "ObjectMask",
    "ProposalOptions",
    "border_share",
    "box_prompts",
    "click_grid",
    "inner_point",
    "mask_box",
    "mask_iou",
    "propose_objects",
]


@dataclass(frozen=True)
class ProposalOptions:
    """Which of a teacher's masks are objects.

    Attributes:
        grid: clicks along the longer side of the picture; along the shorter in proportion.
        min_iou: least predicted IoU.
        min_stability: least stability.
        area: least and largest share of the picture.
        duplicate_iou: masks that overlap more than this are one object; the better is kept.
        part_share: a mask of which so much lies within a larger one is a part of it.
        border_share: a mask that covers more than this of the picture's border is background.
        max_objects: the best so many.
    """

    grid: int = 8
    min_iou: float = 0.85
    min_stability: float = 0.85
    area: tuple[float, float] = (0.003, 0.5)
    duplicate_iou: float = 0.7
    part_share: float = 0.85
    border_share: float = 0.2
    max_objects: int = 12

    def __post_init__(self) -> None:
        if self.grid < 1 or self.max_objects < 1:
            raise ValueError(f"`grid` and `max_objects` must be at least 1, got {self.grid} and {self.max_objects}.")
        if not 0 <= self.area[0] < self.area[1] <= 1:
            raise ValueError(f"`area` is the least and the largest share of a picture, 0 to 1, got {self.area}.")


@dataclass
class ObjectMask:
    """A proposed object of one picture.

    Attributes:
        mask: bool (height, width).
        iou, stability: as the teacher judged it.
        part_of: the place of the whole in the list of proposals, or None.
        is_whole: whether it was asked for by a box around something, not by a click of the grid.
    """

    mask: np.ndarray
    iou: float
    stability: float
    part_of: int | None = None
    is_whole: bool = False

    @property
    def score(self) -> float:
        return self.iou * self.stability


def propose_objects(
    view: View,
    size: tuple[int, int],
    options: ProposalOptions,
    prompts: Sequence[Prompt] = (),
) -> list[ObjectMask]:
    """The objects of a picture, wholes before their parts, better before worse.

    Args:
        view: of the picture.
        size: (height, width) of it.
        options: which masks are taken.
        prompts: asked before the grid of clicks, for whoever knows where objects are.
    """
    found: list[ObjectMask] = []
    covered = np.zeros(size, dtype=bool)
    grid = [Prompt(point[None]) for point in click_grid(size, options.grid)]
    for prompt in [*prompts, *grid]:
        x, y = np.asarray(prompt.points).reshape(-1, 2)[0].astype(int)
        if prompt.box is None and covered[y, x]:
            continue  # a click on an object that is known already would draw it once more
        for answer in view.segment(prompt):
            if is_object(answer, options):
                mask = _largest_piece(answer.mask)
                found.append(ObjectMask(mask, answer.iou, answer.stability, is_whole=prompt.box is not None))
                covered |= found[-1].mask if found[-1].score > 0.9 else False
    return mark_parts(without_duplicates(found, options.duplicate_iou)[: options.max_objects], options.part_share)


def is_object(answer: TeacherMask, options: ProposalOptions) -> bool:
    """Whether a mask is believed in, of a sensible size, and not the picture's background."""
    area = float(answer.mask.mean())
    if answer.iou < options.min_iou or answer.stability < options.min_stability:
        return False
    return options.area[0] <= area <= options.area[1] and border_share(answer.mask) <= options.border_share


def without_duplicates(found: Sequence[ObjectMask], duplicate_iou: float) -> list[ObjectMask]:
    """The masks from best to worst, without those that repeat a better one."""
    kept: list[ObjectMask] = []
    for candidate in sorted(found, key=lambda proposal: -proposal.score):
        if all(mask_iou(candidate.mask, other.mask) <= duplicate_iou for other in kept):
            kept.append(candidate)
    return kept


def mark_parts(found: Sequence[ObjectMask], part_share: float) -> list[ObjectMask]:
    """The masks with wholes first, and `part_of` of each that lies within another."""
    by_area = sorted(found, key=lambda proposal: -int(proposal.mask.sum()))
    whole_of: dict[int, ObjectMask] = {}
    for place, small in enumerate(by_area):
        for large in by_area[:place]:
            if id(large) not in whole_of and (small.mask & large.mask).sum() > part_share * small.mask.sum():
                whole_of[id(small)] = large
                break
    ordered = [p for p in found if id(p) not in whole_of] + [p for p in found if id(p) in whole_of]
    places = {id(proposal): place for place, proposal in enumerate(ordered)}
    for proposal in ordered:
        whole = whole_of.get(id(proposal))
        proposal.part_of = None if whole is None else places[id(whole)]
    return ordered


def click_grid(size: tuple[int, int], count: int) -> np.ndarray:
    """float (n, 2), x and y of clicks at equal distances, `count` along the longer side of (height, width)."""
    step = max(size) / count
    rows, columns = (max(1, round(side / step)) for side in size)
    x, y = np.meshgrid((np.arange(columns) + 0.5) * size[1] / columns, (np.arange(rows) + 0.5) * size[0] / rows)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def box_prompts(regions: np.ndarray, size: tuple[int, int], count: int = 4, least: float = 0.002) -> list[Prompt]:
    """A box, a little wider, with a click inside, for each connected region, the largest first.

    Args:
        regions: bool (h, w), at any size.
        size: (height, width) of the picture that the prompts are for.
        count: at most so many.
        least: share of the picture that a region needs.
    """
    import cv2

    number, labels, stats, _ = cv2.connectedComponentsWithStats(regions.astype(np.uint8))
    scale = np.array([size[1] / regions.shape[1], size[0] / regions.shape[0]])
    prompts = []
    for region in sorted(range(1, number), key=lambda k: -stats[k, cv2.CC_STAT_AREA])[:count]:
        if stats[region, cv2.CC_STAT_AREA] < least * regions.size:
            break
        left, top, width, height = stats[region, :4].astype(float)
        margin = 0.05 * np.array([width, height])
        low = np.maximum((np.array([left, top]) - margin) * scale, 0)
        high = np.minimum((np.array([left + width, top + height]) + margin) * scale, np.array(size[::-1]) - 1)
        point = (inner_point(labels == region) + 0.5) * scale
        prompts.append(Prompt(point, (*low.tolist(), *high.tolist())))
    return prompts


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two bool masks; 0 where both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """left, top, right and bottom of a mask that is not empty, in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def inner_point(mask: np.ndarray) -> np.ndarray:
    """float (1, 2), the x and y that is furthest from the edge of a mask that is not empty."""
    import cv2

    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return np.array([[x, y]], dtype=np.float64)


def border_share(mask: np.ndarray) -> float:
    """The share of the picture's border that a mask covers."""
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return float(border.mean())


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """The mask without specks: its connected pieces of at least a tenth of the largest."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count <= 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= 0.1 * areas.max())
    return np.isin(labels, kept)
