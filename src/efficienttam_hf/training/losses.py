"""The losses of SAM 2's recipe, which EfficientTAM follows (paper, section 4.1).

Each prediction of an object on a frame (a frame that is corrected several times has several) is held against the true
mask by four terms: focal and dice loss of the mask, the error of its predicted IoU, and whether the object is judged
present. Of several proposed masks only the one that fits best is pulled towards the truth, so that an ambiguous click
may keep its several answers; the predicted IoU of all is supervised. An object that is not on the frame has no mask to
learn from: only its presence counts.

Three things differ from SAM 2's published losses. Proposals are compared as they are, not after an object that is
judged absent is blanked, so that the mask of an object that is missed still learns. Pixels may be void: nobody judged
them, and they count nowhere. Presence is plain cross-entropy, which is what the settings there make of a focal loss.

Shapes: O objects, K proposed masks, (h, w) the size the masks are compared at.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from .ranges import check_range


__all__ = ["LossOptions", "ObjectLosses", "dice_loss", "focal_loss", "mask_iou", "tracking_losses"]


@dataclass
class LossOptions:
    """What a loss is made of.

    Attributes:
        focal_weight, dice_weight, iou_weight, presence_weight: of the four terms.
        focal_alpha: weight of object pixels against others; below 0 for none.
        focal_gamma: how much well-judged pixels are discounted.
        iou_l1: whether the predicted IoU's error is absolute (or else squared).
        supervise_all_iou: whether the predicted IoU of all proposals is supervised, or only that of the best.
        full_resolution: whether masks are compared at the model's input size, as published, or at that of the
            predicted masks, a quarter of it, against the share of each cell that the object covers. The latter costs a
            sixteenth, in time and in memory.
    """

    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    presence_weight: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    iou_l1: bool = True
    supervise_all_iou: bool = True
    full_resolution: bool = True

    def __post_init__(self) -> None:
        check_range(self, "focal_weight", "dice_weight", "iou_weight", "presence_weight", "focal_gamma")
        if not self.focal_alpha <= 1:
            raise ValueError(f"`focal_alpha` must be at most 1, or below 0 for none, got {self.focal_alpha}.")


@dataclass
class ObjectLosses:
    """The terms of each object, (O,) each: unweighted, not yet averaged. `+` adds predictions up."""

    focal: Tensor
    dice: Tensor
    iou: Tensor
    presence: Tensor

    def __add__(self, other: ObjectLosses) -> ObjectLosses:
        return ObjectLosses(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def total(self, options: LossOptions) -> Tensor:
        """(O,) the weighted sum."""
        return (
            options.focal_weight * self.focal
            + options.dice_weight * self.dice
            + options.iou_weight * self.iou
            + options.presence_weight * self.presence
        )


def focal_loss(logits: Tensor, targets: Tensor, judged: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss (Lin et al., arXiv 1708.02002), averaged over judged pixels.

    For targets between 0 and 1 it is the quality focal loss (Li et al., arXiv 2006.04388), least where the prediction
    is the target.

    Args:
        logits: (..., h, w).
        targets: (..., h, w) between 0 and 1.
        judged: how much each pixel counts, 0 to 1; of a shape that broadcasts to the logits'.
        alpha, gamma: see `LossOptions`.

    Returns:
        (...): one number a mask; 0 where no pixel is judged.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = loss * (logits.sigmoid() - targets).abs() ** gamma  # 1 - p_t, for targets of 0 and 1
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return (loss * judged).sum((-2, -1)) / judged.expand_as(loss).sum((-2, -1)).clamp(min=1)


def dice_loss(logits: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, with one pixel added to both sides; shapes as in `focal_loss`.

    Where a target is between 0 and 1, what it shares with a prediction is the smaller of the two, not their product:
    so the target itself is the best prediction (Wang et al., arXiv 2303.16296).
    """
    probabilities = logits.sigmoid()
    shared = (torch.minimum(probabilities, targets) * judged).sum((-2, -1))
    areas = ((probabilities + targets) * judged).sum((-2, -1))
    return 1 - (2 * shared + 1) / (areas + 1)


def mask_iou(predicted: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
    """IoU of masks over judged pixels; two empty masks agree entirely.

    Args:
        predicted: bool (..., h, w).
        targets: (..., h, w), bool, or from 0 to 1 where a pixel stands for several of which the object covers a share.
        judged: how much each pixel counts, 0 to 1; of a shape that broadcasts to the masks'.

    Returns:
        float32 (...).
    """
    predicted, targets = predicted.float(), targets.float()
    both = predicted * targets
    intersection = (both * judged).sum((-2, -1))
    union = ((predicted + targets - both) * judged).sum((-2, -1))
    return torch.where(union > 0, intersection / union, 1.0)


def tracking_losses(
    mask_logits: Tensor,
    iou_scores: Tensor,
    object_score_logits: Tensor,
    targets: Tensor,
    void: Tensor | None,
    options: LossOptions,
) -> ObjectLosses:
    """The losses of one prediction of O objects on one frame.

    Args:
        mask_logits: (O, K, h, w), the proposals, of absent objects too.
        iou_scores: (O, K), their predicted IoU.
        object_score_logits: (O, 1), above 0 where an object is judged present.
        targets: bool (O, height, width), the true masks, at the model's input size; all false where it is absent.
        void: bool (O, height, width), pixels that do not count, or `None`.
        options: weights and conventions.
    """
    mask_logits, iou_scores = mask_logits.float(), iou_scores.float()
    present = targets.flatten(1).any(1)
    true_masks = targets.unsqueeze(1).float()
    judged = true_masks.new_ones(1, 1, 1, 1) if void is None else (~void).unsqueeze(1).float()
    if options.full_resolution:
        mask_logits = F.interpolate(mask_logits, size=targets.shape[-2:], mode="bilinear", align_corners=False)
    else:
        # Of each cell the share that is judged, and of that the share that the object covers.
        height, width = mask_logits.shape[-2:]
        covered = F.adaptive_avg_pool2d(true_masks * judged, (height, width))
        judged = F.adaptive_avg_pool2d(judged, (height, width))
        true_masks = torch.where(judged > 0, covered / judged, 0.0)

    expanded = true_masks.expand_as(mask_logits)
    focal = focal_loss(mask_logits, expanded, judged, options.focal_alpha, options.focal_gamma)
    dice = dice_loss(mask_logits, expanded, judged)
    with torch.no_grad():
        true_iou = mask_iou(mask_logits > 0, expanded, judged)
    iou = (iou_scores - true_iou).abs() if options.iou_l1 else (iou_scores - true_iou) ** 2

    best = (options.focal_weight * focal + options.dice_weight * dice).argmin(1, keepdim=True)
    focal, dice = focal.gather(1, best).squeeze(1), dice.gather(1, best).squeeze(1)
    iou = iou.mean(1) if options.supervise_all_iou else iou.gather(1, best).squeeze(1)
    presence = F.binary_cross_entropy_with_logits(
        object_score_logits.float().squeeze(1), present.float(), reduction="none"
    )
    shown = present.float()
    return ObjectLosses(focal * shown, dice * shown, iou * shown, presence)
