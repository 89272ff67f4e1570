"""The simulated user: chooses prompts, prompted frames and corrections in training.

As in the training of SAM 2 (arXiv 2408.00714, section D.2.2, and its published training settings), a clip begins with a
mask, a box or a click on its first frame, perhaps also on a second one, and some frames are corrected with clicks on
wrong pixels. The frames and the type of prompt are chosen once for a whole batch (`plan_prompts`), so that its objects
run together. The position of a click is drawn for every object from its own seed, so that it does not depend on the
other objects of the batch or on the number of processes.

Four things differ from the published code. Whether a correction ignores the prediction is drawn for each object, not
for the batch. If a prediction has no error, the click is on the object, not beside it. An object that is absent from a
frame with boxes gets a negative click and not an empty box. At least one frame of a clip is tracked.

Letters of shapes: O objects, K points; points are (x, y) in pixels of the model's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.seeding import generator_of
from .ranges import check_range


__all__ = ["PromptPlan", "SimulatedUser", "UserOptions", "plan_prompts", "sample_pixels", "uniform"]


NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, NOT_A_POINT = 0, 1, 2, 3, -1


@dataclass
class UserOptions:
    """The options of the simulated user.

    Attributes:
        point_probability: probability that a clip is prompted by points or a box, and corrected; otherwise it is
            prompted by masks and not corrected. A single image is always prompted by points or a box.
        box_probability: the fraction of these clips that begin with a box.
        max_conditioning_frames: largest number of frames that are prompted from the start, the first frame included.
        max_corrected_frames: largest number of frames that are corrected, beginning with the prompted ones.
        random_frame_counts: whether these two numbers are drawn (conditioning frames from 1, corrected frames from the
            number of conditioning frames, up to the maximum); otherwise they are always the maximum.
        corrected_is_conditioning: whether a corrected frame then counts as a conditioning frame.
        correction_clicks: number of successive clicks on a corrected frame after its first prompt; 0 for no
            corrections.
        click_on_object_probability: probability that a correction ignores the prediction and is anywhere on the object.
        box_noise: largest shift of a box's sides as a fraction of its size, at most a half.
        max_box_noise: largest shift of a box's sides in pixels.
    """

    point_probability: float = 0.5
    box_probability: float = 0.5
    max_conditioning_frames: int = 2
    max_corrected_frames: int = 2
    random_frame_counts: bool = True
    corrected_is_conditioning: bool = True
    correction_clicks: int = 7
    click_on_object_probability: float = 0.1
    box_noise: float = 0.1
    max_box_noise: float = 20.0

    def __post_init__(self) -> None:
        check_range(self, "point_probability", "box_probability", "click_on_object_probability", most=1)
        check_range(self, "box_noise", most=0.5)
        check_range(self, "max_conditioning_frames", least=1)
        check_range(self, "max_corrected_frames", "correction_clicks", "max_box_noise")


@dataclass
class PromptPlan:
    """The prompted and corrected frames of a batch of clips.

    Attributes:
        conditioning: type of prompt, `"mask"`, `"point"` or `"box"`, by the frames that are prompted from the start.
            Frame 0 is always one of them.
        corrected: frames that get correction clicks.
    """

    conditioning: dict[int, str]
    corrected: list[int]


def plan_prompts(num_frames: int, options: UserOptions, rng: np.random.Generator) -> PromptPlan:
    """Draw a plan for clips of `num_frames` frames."""
    by_points = num_frames == 1 or rng.random() < options.point_probability
    # At least one frame of a clip is left to be tracked.
    most_conditioning = min(options.max_conditioning_frames, max(1, num_frames - 1))
    most_corrected = min(options.max_corrected_frames, num_frames) if options.correction_clicks else 0
    num_conditioning, num_corrected = most_conditioning, most_corrected
    if options.random_frame_counts:
        num_conditioning = int(rng.integers(1, most_conditioning + 1))
        num_corrected = int(rng.integers(min(num_conditioning, most_corrected), most_corrected + 1))

    others = rng.permutation(np.arange(1, num_frames)).tolist()
    frames = sorted([0, *others[: num_conditioning - 1]])
    if not by_points:
        return PromptPlan(dict.fromkeys(frames, "mask"), [])
    kinds = ["box" if rng.random() < options.box_probability else "point" for _ in frames]
    # Prompted frames are corrected first; the remaining corrections go to tracked frames.
    corrected = (frames + [t for t in others if t not in frames])[:num_corrected]
    return PromptPlan(dict(zip(frames, kinds, strict=True)), sorted(corrected))


def uniform(seeds: Sequence[int], *key: int) -> Tensor:
    """Draw a number in [0, 1) for each seed, float32 (O,) on the CPU; it depends only on the seed and the key."""
    return torch.from_numpy(np.array([generator_of(seed, *key).random(dtype=np.float32) for seed in seeds]))


def sample_pixels(regions: Tensor, where: Tensor) -> Tensor:
    """Choose one pixel of each region, all with equal probability.

    Args:
        regions: bool (O, height, width). An empty region stands for the whole frame.
        where: (O,) random numbers in [0, 1) that choose the pixel.

    Returns:
        float32 (O, 2) points (x, y).
    """
    width = regions.shape[-1]
    regions = regions.flatten(1)
    regions = regions | ~regions.any(1, keepdim=True)
    order = regions.cumsum(1, dtype=torch.int32)  # the running number of each pixel within its region
    count = order[:, -1:]
    rank = (where.to(order.device).unsqueeze(1) * count).int().minimum(count - 1) + 1
    index = torch.searchsorted(order, rank).squeeze(1)
    return torch.stack([index % width, index // width], dim=-1).float()


class SimulatedUser:
    """Draws prompts for the objects of a batch from their seeds.

    Args:
        options: the options of the user.
        seeds: one non-negative number for each of the O objects.
    """

    def __init__(self, options: UserOptions, seeds: Sequence[int]):
        self.options = options
        self.seeds = [int(seed) for seed in seeds]

    def first_click(self, masks: Tensor, frame: int) -> tuple[Tensor, Tensor]:
        """Draw a click on each object, negative if it is absent: points (O, 1, 2) and labels (O, 1).

        Args:
            masks: bool (O, height, width), the true masks of that frame.
            frame: its number in the clip.
        """
        return self._click(masks, masks, frame, 0)

    def correction(self, masks: Tensor, predicted: Tensor, frame: int, click: int) -> tuple[Tensor, Tensor]:
        """Draw a click on a wrong pixel: points (O, 1, 2) and labels (O, 1), positive if the pixel was missed.

        Args:
            masks, predicted: bool (O, height, width), true and predicted masks of that frame.
            frame: the number of the frame in the clip.
            click: the number of the correction on this frame, from 0.
        """
        errors = masks ^ predicted
        # Some clicks ignore the prediction. If it has no error, the click ignores it too.
        blind = (uniform(self.seeds, frame, click, 1) < self.options.click_on_object_probability).to(masks.device)
        blind = blind | ~errors.flatten(1).any(1)
        return self._click(torch.where(blind[:, None, None], masks, errors), masks, frame, click + 1)

    def _click(self, regions: Tensor, masks: Tensor, frame: int, draw: int) -> tuple[Tensor, Tensor]:
        """Draw a click in each region, or anywhere if the region is empty; it is positive if it is on the object."""
        points = sample_pixels(regions, uniform(self.seeds, frame, draw, 0))
        x, y = points.long().unbind(1)
        labels = masks[torch.arange(len(masks), device=masks.device), y, x]
        return points.unsqueeze(1), labels.long().unsqueeze(1)

    def box(self, masks: Tensor, frame: int) -> tuple[Tensor, Tensor]:
        """Draw a box with noise around each object: points (O, 2, 2), its corners, and labels (O, 2).

        An absent object has no box; it gets a negative click.

        Args:
            masks: bool (O, height, width), the true masks of that frame.
            frame: its number in the clip.
        """
        height, width = masks.shape[-2:]
        columns, rows = masks.any(1), masks.any(2)
        left, top = columns.byte().argmax(1), rows.byte().argmax(1)
        right = width - 1 - columns.flip(1).byte().argmax(1)
        bottom = height - 1 - rows.flip(1).byte().argmax(1)
        corners = torch.stack([left, top, right, bottom], dim=1).float()
        size = torch.stack([right - left, bottom - top], dim=1).float().repeat(1, 2)
        reach = (size * self.options.box_noise).clamp(max=self.options.max_box_noise)
        shift = torch.stack([uniform(self.seeds, frame, side, 2) for side in range(4)], dim=1)
        corners = corners + reach * (2 * shift - 1).to(reach.device)
        corners = corners.clamp(min=0).minimum(corners.new_tensor([width - 1, height - 1, width - 1, height - 1]))

        points = corners.view(-1, 2, 2)
        labels = torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], device=masks.device).expand(len(masks), 2)
        beside, negative = self.first_click(masks, frame)
        absent = ~masks.flatten(1).any(1)
        instead_points = torch.cat([beside, torch.zeros_like(beside)], dim=1)
        instead_labels = torch.cat([negative, torch.full_like(negative, NOT_A_POINT)], dim=1)
        points = torch.where(absent[:, None, None], instead_points, points)
        return points, torch.where(absent[:, None], instead_labels, labels)
