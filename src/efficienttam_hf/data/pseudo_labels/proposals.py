"""Finds the objects of one picture: the teacher draws masks for a grid of clicks, and some of them are chosen.

As in SAM's automatic mask generation (arXiv 2304.02643, appendix B), masks are kept if their predicted IoU is high and
if they hardly depend on the threshold (stability), and one mask is kept of each group of duplicates. In addition, a
mask that is inside another one is marked as a part of it, because trackers are mostly used for whole objects.
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
    "prompted_object",
    "propose_objects",
]


@dataclass(frozen=True)
class ProposalOptions:
    """Which of a teacher's masks are objects.

    Attributes:
        grid: the number of clicks along the longer side of the picture; along the shorter side, there are fewer in
            proportion.
        min_iou: the smallest predicted IoU.
        min_stability: the smallest stability.
        area: the smallest and the largest fraction of the picture.
        duplicate_iou: masks with a larger IoU are one object, and the better one is kept.
        part_share: a mask is a part of a larger one that contains more than this fraction of it.
        border_share: a mask that covers more than this fraction of the picture's border is background.
        max_objects: the largest number of objects; the best are kept.

    Raises:
        ValueError: if a number is outside its range.
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
        iou: the predicted IoU.
        stability: the stability; see `TeacherMask`.
        part_of: the position of the whole in the list of proposals, or None.
        is_whole: whether it was prompted by a box around it, and not by a click of the grid.
    """

    mask: np.ndarray
    iou: float
    stability: float
    part_of: int | None = None
    is_whole: bool = False

    @property
    def score(self) -> float:
        """The product of predicted IoU and stability, from 0 to 1."""
        return self.iou * self.stability


def prompted_object(view: View, prompt: Prompt) -> ObjectMask:
    """The object that a person prompted: their own mask, or the teacher's answer of the highest predicted IoU."""
    if prompt.mask is not None:
        return ObjectMask(prompt.mask, 1.0, 1.0, is_whole=True)
    best = max(view.segment(prompt), key=lambda answer: answer.iou)
    return ObjectMask(best.mask, best.iou, best.stability, is_whole=True)


def propose_objects(
    view: View,
    size: tuple[int, int],
    options: ProposalOptions,
    prompts: Sequence[Prompt] = (),
    known: np.ndarray | None = None,
) -> list[ObjectMask]:
    """Return the objects of a picture, wholes before their parts and better ones before worse ones.

    Args:
        view: the encoded picture.
        size: (height, width) of the picture.
        options: which masks are objects.
        prompts: prompts that are used before the grid of clicks, if positions of objects are known.
        known: bool (height, width), where objects are known already; clicks of the grid there are left out.
    """
    found: list[ObjectMask] = []
    covered = np.zeros(size, dtype=bool) if known is None else known.copy()
    grid = [Prompt(point[None]) for point in click_grid(size, options.grid)]
    for prompt in [*prompts, *grid]:
        x, y = np.asarray(prompt.points).reshape(-1, 2)[0].astype(int)
        if prompt.box is None and covered[y, x]:
            continue  # a click on a known object would draw it again
        for answer in view.segment(prompt):
            if is_object(answer, options):
                mask = _largest_piece(answer.mask)
                found.append(ObjectMask(mask, answer.iou, answer.stability, is_whole=prompt.box is not None))
                covered |= found[-1].mask if found[-1].score > 0.9 else False
    return mark_parts(without_duplicates(found, options.duplicate_iou)[: options.max_objects], options.part_share)


def is_object(answer: TeacherMask, options: ProposalOptions) -> bool:
    """Whether a mask has a high predicted IoU and stability and a suitable area, and is not the background."""
    area = float(answer.mask.mean())
    if answer.iou < options.min_iou or answer.stability < options.min_stability:
        return False
    return options.area[0] <= area <= options.area[1] and border_share(answer.mask) <= options.border_share


def without_duplicates(found: Sequence[ObjectMask], duplicate_iou: float) -> list[ObjectMask]:
    """Return the masks from the best to the worst, without those that overlap too much with a better one."""
    kept: list[ObjectMask] = []
    for candidate in sorted(found, key=lambda proposal: -proposal.score):
        if all(mask_iou(candidate.mask, other.mask) <= duplicate_iou for other in kept):
            kept.append(candidate)
    return kept


def mark_parts(found: Sequence[ObjectMask], part_share: float) -> list[ObjectMask]:
    """Return the masks, wholes first, with `part_of` set for each mask that is inside another one."""
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
    """Return float (n, 2), (x, y) of a grid of clicks, with `count` along the longer side of (height, width)."""
    step = max(size) / count
    rows, columns = (max(1, round(side / step)) for side in size)
    x, y = np.meshgrid((np.arange(columns) + 0.5) * size[1] / columns, (np.arange(rows) + 0.5) * size[0] / rows)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def box_prompts(regions: np.ndarray, size: tuple[int, int], count: int = 4, least: float = 0.002) -> list[Prompt]:
    """Return a slightly enlarged box with a click inside for each connected region, the largest first.

    Args:
        regions: bool (h, w), at any size.
        size: (height, width) of the picture that the prompts are for.
        count: the largest number of prompts.
        least: the smallest fraction of the picture that a region covers.
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
    """Return the IoU of two bool masks; 0 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Return the left, top, right and bottom of a mask that is not empty, in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def inner_point(mask: np.ndarray) -> np.ndarray:
    """Return float (1, 2), the point (x, y) of a mask that is farthest from its edge. The mask must not be empty."""
    import cv2

    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return np.array([[x, y]], dtype=np.float64)


def border_share(mask: np.ndarray) -> float:
    """Return the fraction of the picture's border that a mask covers."""
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return float(border.mean())


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return a mask without specks: its connected regions with at least a tenth of the largest region's area."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count <= 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= 0.1 * areas.max())
    return np.isin(labels, kept)
