"""The losses of SAM 2's recipe, which EfficientTAM follows (paper, section 4.1).

Each prediction of an object on a frame (a frame that is corrected several times has several) is compared with the true
mask by four terms: focal loss and dice loss of the mask, the error of its predicted IoU, and the cross-entropy of the
object score. Of several proposals, only the best one has mask losses, so that an ambiguous click can keep several
answers; the predicted IoU of all proposals is supervised. An object that is not on the frame has no mask losses; only
its object score is supervised.

Three things differ from SAM 2's published losses. Proposals are compared before the mask of an object that is judged
absent is blanked, so that the mask of a missed object is still trained. Pixels can be void: they are not annotated and
have no loss. The object score has a plain cross-entropy, to which the published settings reduce the focal loss.

Letters of shapes: O objects, K proposals, (h, w) the size at which masks are compared.
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
    """The weights and conventions of the losses.

    Attributes:
        focal_weight, dice_weight, iou_weight, presence_weight: weights of the four terms.
        focal_alpha: weight of object pixels relative to others; below 0 for equal weights.
        focal_gamma: exponent that reduces the loss of well-classified pixels.
        iou_l1: whether the error of the predicted IoU is absolute; otherwise it is squared.
        supervise_all_iou: whether the predicted IoU of all proposals is supervised; otherwise only that of the best.
        full_resolution: whether masks are compared at the model's input size, as published. Otherwise they are compared
            at the size of the predicted masks, a quarter of it, with the fraction of each cell that the object covers;
            this takes a sixteenth of the time and of the RAM or GPU memory.
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
    """The unweighted terms of each object, (O,) each. `+` adds the terms of several predictions."""

    focal: Tensor
    dice: Tensor
    iou: Tensor
    presence: Tensor

    def __add__(self, other: ObjectLosses) -> ObjectLosses:
        return ObjectLosses(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def total(self, options: LossOptions) -> Tensor:
        """The weighted sum of the terms, (O,)."""
        return (
            options.focal_weight * self.focal
            + options.dice_weight * self.dice
            + options.iou_weight * self.iou
            + options.presence_weight * self.presence
        )


def focal_loss(logits: Tensor, targets: Tensor, judged: Tensor, alpha: float, gamma: float) -> Tensor:
    """Compute the sigmoid focal loss (Lin et al., arXiv 1708.02002), averaged over annotated pixels.

    For targets between 0 and 1 it is the quality focal loss (Li et al., arXiv 2006.04388), which is smallest if the
    prediction equals the target.

    Args:
        logits: (..., h, w).
        targets: (..., h, w) between 0 and 1.
        judged: weight of each pixel, from 0 (void) to 1, in a shape that broadcasts to that of the logits.
        alpha, gamma: see `LossOptions`.

    Returns:
        (...): one number for each mask; 0 if all pixels are void.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = loss * (logits.sigmoid() - targets).abs() ** gamma  # 1 - p_t, for targets of 0 and 1
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return (loss * judged).sum((-2, -1)) / judged.expand_as(loss).sum((-2, -1)).clamp(min=1)


def dice_loss(logits: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
    """Compute one minus the soft Dice coefficient, with 1 added to numerator and denominator; see `focal_loss`.

    The intersection of a prediction with a target between 0 and 1 is their minimum, not their product, so that the
    target itself is the best prediction (Wang et al., arXiv 2303.16296).
    """
    probabilities = logits.sigmoid()
    shared = (torch.minimum(probabilities, targets) * judged).sum((-2, -1))
    areas = ((probabilities + targets) * judged).sum((-2, -1))
    return 1 - (2 * shared + 1) / (areas + 1)


def mask_iou(predicted: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
    """Compute the IoU of masks over annotated pixels; for two empty masks, it is 1.

    Args:
        predicted: bool (..., h, w).
        targets: (..., h, w), bool, or the fraction of each pixel that the object covers, from 0 to 1.
        judged: weight of each pixel, from 0 (void) to 1, in a shape that broadcasts to that of the masks.

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
    """Compute the losses of one prediction of O objects on one frame.

    Args:
        mask_logits: (O, K, h, w) logits of the proposals, also for absent objects.
        iou_scores: (O, K) predicted IoU of the proposals.
        object_score_logits: (O, 1) object scores.
        targets: bool (O, height, width), the true masks at the model's input size; empty for an absent object.
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
        # For each cell: the annotated fraction, and the fraction of this part that the object covers.
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
