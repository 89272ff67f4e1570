"""The losses, against re-computations that go pixel by pixel in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from efficienttam_hf.training.losses import LossOptions, dice_loss, focal_loss, mask_iou, tracking_losses


OBJECTS, PROPOSALS, SMALL, FULL = 4, 3, 6, 24


# ------------------------------------------------------------------------------------- slow and obvious, for one mask


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def slow_focal(logits, target, judged, alpha, gamma):
    total = count = 0.0
    for x, t, weight in zip(logits.flatten(), target.flatten(), judged.flatten(), strict=True):
        p = sigmoid(x)
        cross_entropy = -(t * math.log(p) + (1 - t) * math.log(1 - p))
        balance = alpha * t + (1 - alpha) * (1 - t) if alpha >= 0 else 1.0
        total += weight * balance * abs(t - p) ** gamma * cross_entropy
        count += weight
    return total / max(count, 1)


def slow_dice(logits, target, judged):
    shared = area = 0.0
    for x, t, weight in zip(logits.flatten(), target.flatten(), judged.flatten(), strict=True):
        shared += weight * min(sigmoid(x), t)
        area += weight * (sigmoid(x) + t)
    return 1 - (2 * shared + 1) / (area + 1)


def slow_iou(logits, target, judged):
    intersection = union = 0.0
    for x, t, weight in zip(logits.flatten(), target.flatten(), judged.flatten(), strict=True):
        intersection += weight * t if x > 0 else 0
        union += weight * (1 if x > 0 else t)
    return intersection / union if union else 1.0


def slow_losses(logits, iou_scores, scores, targets, void, options):
    """(focal, dice, iou, presence) of each object, unweighted."""
    if options.full_resolution:
        logits = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear", align_corners=False)
    rows = []
    for o in range(len(logits)):
        target, judged = targets[o].numpy().astype(float), np.ones(targets.shape[-2:])
        present = target.any()
        if void is not None:
            judged = 1 - void[o].numpy().astype(float)
        if not options.full_resolution:
            target, judged = shares(target * judged, logits.shape[-1]), shares(judged, logits.shape[-1])
            target = np.divide(target, judged, out=np.zeros_like(target), where=judged > 0)
        of_mask = []
        for k in range(logits.shape[1]):
            mask, predicted_iou = logits[o, k].numpy().astype(float), iou_scores[o, k].item()
            error = predicted_iou - slow_iou(mask, target, judged)
            of_mask.append(
                (
                    slow_focal(mask, target, judged, options.focal_alpha, options.focal_gamma),
                    slow_dice(mask, target, judged),
                    abs(error) if options.iou_l1 else error**2,
                )
            )
        best = min(of_mask, key=lambda loss: options.focal_weight * loss[0] + options.dice_weight * loss[1])
        iou = sum(loss[2] for loss in of_mask) / len(of_mask) if options.supervise_all_iou else best[2]
        p = sigmoid(scores[o, 0].item())
        presence = -math.log(p if present else 1 - p)
        rows.append((best[0], best[1], iou, presence) if present else (0.0, 0.0, 0.0, presence))
    return np.array(rows)


def shares(pixels, size):
    """The mean of each of `size` x `size` cells."""
    cell = len(pixels) // size
    means = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            means[i, j] = pixels[i * cell : (i + 1) * cell, j * cell : (j + 1) * cell].mean()
    return means


# --------------------------------------------------------------------------------------------------------- made inputs


@pytest.fixture
def inputs():
    """A prediction of four objects, of which the third is absent, and void pixels."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.zeros(OBJECTS, FULL, FULL, dtype=torch.bool)
    targets[0, 3:15, 5:18] = True
    targets[1] = torch.rand(FULL, FULL, generator=generator) > 0.6
    targets[3, 20:22, 1:3] = True
    void = torch.rand(OBJECTS, FULL, FULL, generator=generator) > 0.8
    void[0, :8] = True
    return {
        "mask_logits": torch.randn(OBJECTS, PROPOSALS, SMALL, SMALL, generator=generator) * 3,
        "iou_scores": torch.rand(OBJECTS, PROPOSALS, generator=generator),
        "object_score_logits": torch.randn(OBJECTS, 1, generator=generator),
        "targets": targets,
        "void": void,
    }


@pytest.mark.parametrize("with_void", [False, True], ids=["all judged", "void pixels"])
@pytest.mark.parametrize(
    "options",
    [
        LossOptions(),
        LossOptions(full_resolution=False),
        LossOptions(supervise_all_iou=False),
        LossOptions(iou_l1=False),
        LossOptions(focal_alpha=-1, focal_gamma=0),
        LossOptions(focal_weight=3, dice_weight=0.5, iou_weight=2, presence_weight=7, full_resolution=False),
    ],
    ids=["published", "quarter size", "best IoU only", "squared IoU", "cross-entropy", "other weights"],
)
def test_the_losses_are_what_going_through_all_pixels_gives(inputs, options, with_void):
    if not with_void:
        inputs["void"] = None
    losses = tracking_losses(**inputs, options=options)
    expected = slow_losses(*inputs.values(), options)
    actual = torch.stack([losses.focal, losses.dice, losses.iou, losses.presence], dim=1)
    np.testing.assert_allclose(actual.numpy(), expected, atol=2e-5)
    weights = [options.focal_weight, options.dice_weight, options.iou_weight, options.presence_weight]
    np.testing.assert_allclose(losses.total(options).numpy(), expected @ weights, atol=2e-4)


def test_the_published_weights_are_the_default():
    options = LossOptions()
    assert (options.focal_weight, options.dice_weight, options.iou_weight, options.presence_weight) == (20, 1, 1, 1)
    assert (options.focal_alpha, options.focal_gamma) == (0.25, 2)
    assert options.iou_l1 and options.supervise_all_iou and options.full_resolution


def test_a_right_prediction_costs_nothing_and_its_opposite_much():
    targets = torch.zeros(1, 16, 16, dtype=torch.bool)
    targets[0, 4:12, 4:12] = True
    right = torch.where(targets[:, None], 30.0, -30.0)
    options = LossOptions()

    def total(logits, iou, score):
        scores = torch.full((1, 1), iou), torch.full((1, 1), score)
        return tracking_losses(logits, *scores, targets, None, options).total(options).item()

    assert total(right, 1.0, 30.0) < 1e-4
    assert total(-right, 0.0, -30.0) > 100


# -------------------------------------------------------------------------------------------------- who gets gradients


def gradients(inputs, options=None):
    """The losses, and the gradients of their sum with respect to masks, IoU and object scores."""
    names = ("mask_logits", "iou_scores", "object_score_logits")
    leaves = {name: inputs[name].clone().requires_grad_() for name in names}
    options = options or LossOptions()
    losses = tracking_losses(**{**inputs, **leaves}, options=options)
    losses.total(options).sum().backward()
    return losses, *(leaf.grad for leaf in leaves.values())


def test_only_the_best_mask_learns_and_all_learn_their_iou(inputs):
    inputs["void"] = None
    inputs["mask_logits"][0, 1] = torch.where(F.max_pool2d(inputs["targets"][None, 0].float(), 4) > 0, 4.0, -4.0)
    _, masks, ious, _ = gradients(inputs)
    learns = masks.flatten(2).abs().sum(-1) > 0
    assert learns[0].tolist() == [False, True, False]
    assert learns[[0, 1, 3]].sum(1).tolist() == [1, 1, 1]
    assert (ious[[0, 1, 3]] != 0).all()


def test_without_supervision_of_all_only_the_best_mask_learns_its_iou(inputs):
    _, masks, ious, _ = gradients(inputs, LossOptions(supervise_all_iou=False))
    learns = masks.flatten(2).abs().sum(-1) > 0
    assert torch.equal(ious != 0, learns)


def test_an_absent_object_learns_its_absence_only(inputs):
    losses, masks, ious, presence = gradients(inputs)
    assert (losses.focal[2], losses.dice[2], losses.iou[2]) == (0, 0, 0) and losses.presence[2] > 0
    assert not masks[2].any() and not ious[2].any() and presence[2] > 0
    assert (presence[[0, 1, 3]] < 0).all()


@pytest.mark.parametrize("full_resolution", [True, False])
def test_void_pixels_change_nothing_whatever_is_predicted_or_annotated_there(inputs, full_resolution):
    options = LossOptions(full_resolution=full_resolution)
    void = torch.zeros(OBJECTS, FULL, FULL, dtype=torch.bool)
    void[:, 12:] = True
    inputs["void"] = void
    inputs["targets"][3, 0, 0] = True  # present, on a pixel that counts
    losses, masks, *_ = gradients(inputs, options)
    # A row of predictions is 4 pixels; bilinear upsampling looks half of one further.
    assert not masks[:, :, 4:].any() and masks[:, :, :3].any()
    changed = {**inputs, "mask_logits": inputs["mask_logits"].clone(), "targets": inputs["targets"].clone()}
    changed["mask_logits"][:, :, 4:] *= -5
    changed["targets"][[0, 1, 3], 12:] ^= True
    again, *_ = gradients(changed, options)
    for name, value in vars(losses).items():
        torch.testing.assert_close(getattr(again, name), value)


def test_a_frame_that_is_all_void_gives_finite_losses_and_no_gradient_of_masks(inputs):
    for full_resolution in (True, False):
        inputs["void"] = torch.ones_like(inputs["targets"])
        losses, masks, *_ = gradients(inputs, LossOptions(full_resolution=full_resolution))
        assert not masks.any() and not losses.focal.any() and not losses.dice.any()
        assert torch.isfinite(losses.iou).all()


def test_half_precision_predictions_are_judged_in_float32(inputs):
    rounded = {**inputs, "mask_logits": inputs["mask_logits"].bfloat16(), "iou_scores": inputs["iou_scores"].bfloat16()}
    options = LossOptions()
    losses = tracking_losses(**rounded, options=options)
    expected = tracking_losses(
        **{**rounded, "mask_logits": rounded["mask_logits"].float(), "iou_scores": rounded["iou_scores"].float()},
        options=options,
    )
    assert all(value.dtype == torch.float32 for value in vars(losses).values())
    assert torch.equal(losses.total(options), expected.total(options))


# ------------------------------------------------------------------------------------------------------- single pieces


def test_dice_and_focal_loss_of_a_partly_covered_cell_are_least_where_the_prediction_is_the_share():
    shares = torch.tensor([[0.25, 1.0], [0.0, 0.6]])
    judged = torch.ones(1, 1)
    exact = shares.clamp(1e-4, 1 - 1e-4).logit()
    for loss in (dice_loss, lambda *a: focal_loss(*a, alpha=0.25, gamma=2.0)):
        least = loss(exact, shares, judged)
        for change in (-2.0, -0.5, 0.5, 2.0):
            for i, j in ((0, 0), (1, 1)):
                other = exact.clone()
                other[i, j] += change
                assert loss(other, shares, judged) > least + 1e-4


def test_the_iou_of_a_tiny_object_is_not_that_of_an_empty_mask():
    """At a quarter of the size an object of four pixels covers no cell by half, and must not be lost."""
    targets = torch.zeros(1, FULL, FULL, dtype=torch.bool)
    targets[0, 8:10, 8:10] = True
    logits = torch.full((1, 2, SMALL, SMALL), -5.0)
    logits[0, 1, 2, 2] = 5.0  # the second mask is the cell with the object
    share = F.avg_pool2d(targets.float(), 4)
    assert mask_iou(logits[0] > 0, share, torch.ones(1, 1)).tolist() == [0.0, 0.25]


def test_iou_of_masks():
    a, b = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    everywhere = torch.ones(1, 1, dtype=torch.bool)
    assert mask_iou(a, b, everywhere) == 1
    a[:2], b[1:3] = True, True
    assert mask_iou(a, b, everywhere) == pytest.approx(1 / 3)
    assert mask_iou(a, ~a, everywhere) == 0
    judged = torch.ones(4, 4, dtype=torch.bool)
    judged[2] = False
    assert mask_iou(a, b, judged) == 0.5


@pytest.mark.parametrize(
    ("field", "value"), [("focal_weight", -1.0), ("iou_weight", math.nan), ("focal_gamma", -2.0), ("focal_alpha", 1.5)]
)
def test_an_option_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        LossOptions(**{field: value})
