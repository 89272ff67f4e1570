"""Objects that compete for what several of them claim: the rule against a slow re-computation, and in sessions."""

import copy

import numpy as np
import pytest
import torch
from reference import with_objects

from efficienttam_hf.object_competition import NEVER, compete
from efficienttam_hf.tracking_rules import TrackingRules


def obvious(logits, hidden_at, stands):
    """The rule, pair by pair and pixel by pixel."""
    count, height, width = logits.shape
    pixels = [{(y, x) for y in range(height) for x in range(width) if mask[y, x] > 0} for mask in logits]
    out = set()
    for i in range(count):
        for j in range(count):
            union = len(pixels[i] | pixels[j])
            if i != j and union and len(pixels[i] & pixels[j]) / union >= 0.7 and hidden_at[i] > hidden_at[j]:
                out.add(i)
    out -= set(np.flatnonzero(stands))

    def resolve(out):
        won = [set() for _ in range(count)]
        for y in range(height):
            for x in range(width):
                claim = [i for i in range(count) if i not in out and (y, x) in pixels[i]]
                standing = [i for i in claim if stands[i]]
                for i in standing or sorted(claim, key=lambda i: -logits[i, y, x])[:1]:
                    won[i].add((y, x))
        return won

    won = resolve(out)
    small = {i for i in range(count) if not stands[i] and pixels[i] and len(won[i]) / len(pixels[i]) < 0.3}
    won = resolve(out | small)
    result = logits.copy()
    for i in range(count):
        for y, x in pixels[i] - won[i]:
            result[i, y, x] = -10.0
    return result


@pytest.mark.parametrize("seed", range(12))
def test_the_rule_is_the_obvious_one(seed):
    rng = np.random.default_rng(seed)
    logits = np.full((5, 14, 16), -3.0, np.float32)
    for mask in logits[:4]:  # the fifth is empty
        y, x = rng.integers(0, 6, 2)
        mask[y : y + 7, x : x + 8] = rng.uniform(0.5, 9, (7, 8)) + rng.uniform(0, 5)
    logits[1] = np.where(rng.random((14, 16)) < 0.93, logits[0] + 0.25, -3.0)  # nearly the first one
    hidden_at = rng.choice([NEVER, 3.0, 7.0, 9.0], 5)
    stands = rng.random(5) < 0.2
    np.testing.assert_array_equal(compete(logits, hidden_at, stands), obvious(logits, hidden_at, stands))


def two(second_from=0):
    logits = np.full((2, 8, 8), -5.0, np.float32)
    logits[0, 1:5, 1:5] = 4.0
    logits[1, 1 + second_from : 5 + second_from, 1:5] = 6.0
    return logits


def areas(logits):
    return (logits > 0).sum(axis=(1, 2)).tolist()


def test_of_two_masks_that_are_the_same_the_one_hidden_later_gives_way():
    free = np.zeros(2, bool)
    assert areas(compete(two(), np.array([NEVER, 5.0]), free)) == [16, 0]
    assert areas(compete(two(), np.array([8.0, 5.0]), free)) == [0, 16]
    # Neither was: the higher logit takes the pixels.
    assert areas(compete(two(), np.array([NEVER, NEVER]), free)) == [0, 16]
    # What a user drew stands, though the other's logits are higher.
    assert areas(compete(two(), np.array([9.0, NEVER]), np.array([True, False]))) == [16, 0]


def test_pixels_go_to_the_highest_logit_and_remains_are_dropped():
    free, never = np.zeros(2, bool), np.full(2, NEVER)
    assert areas(compete(two(second_from=2), never, free)) == [8, 16]  # half is left
    three_quarters = two(second_from=1)
    assert areas(compete(three_quarters, never, free, same_iou=0.9)) == [0, 16]  # a quarter is less than 0.3
    assert areas(compete(three_quarters, never, free, same_iou=0.9, least_left=0.2)) == [4, 16]
    apart = two(second_from=4)[:, :8]
    np.testing.assert_array_equal(compete(apart, never, free), apart)


# ------------------------------------------------------------------------------------------------------ in sessions

BOXES = {1: [20, 20, 60, 60], 2: [24, 22, 62, 60], 3: [70, 70, 110, 110]}


@pytest.fixture(scope="module")
def lively(model):
    """The tiny model with objects judged present, whose masks overlap."""
    return with_objects(copy.deepcopy(model))


def run(model, processor, competition, boxes=BOXES, count=6, **options):
    rng = np.random.default_rng(0)
    frames = [np.roll(rng.integers(0, 255, (128, 128, 3), np.uint8), 3 * t, axis=1) for t in range(count)]
    session = processor.init_video_session(frames, object_competition=competition, **options)
    for obj_id, box in boxes.items():
        processor.add_inputs_to_inference_session(session, 0, obj_id, input_boxes=[[box]])
    return session, list(model.propagate_in_video_iterator(session))


def overlap(output):
    return int(((output.pred_masks[:, 0] > 0).sum(dim=0) > 1).sum())


def test_shown_masks_do_not_overlap_and_the_first_frame_stands(lively, processor):
    _, plain = run(lively, processor, None)
    session, shown = run(lively, processor, "shown")
    assert torch.equal(plain[0].pred_masks, shown[0].pred_masks)
    assert max(overlap(output) for output in plain[1:]) > 0 and not any(overlap(output) for output in shown[1:])
    # The first tracked frame is the plain one's, decided; what is remembered is the plain one's, too.
    expected = compete(plain[1].pred_masks[:, 0].numpy(), np.full(3, NEVER), np.zeros(3, bool))
    np.testing.assert_array_equal(shown[1].pred_masks[:, 0].numpy(), expected)
    for a, b in zip(plain, shown, strict=True):
        torch.testing.assert_close(a.object_pointer, b.object_pointer)
    again = lively.get_frame_output(session, 3) if hasattr(lively, "get_frame_output") else shown[3]
    assert torch.equal(again.pred_masks, shown[3].pred_masks)


def test_remembered_masks_are_those_that_were_decided(lively, processor):
    plain, _ = run(lively, processor, None, count=2)
    shown, _ = run(lively, processor, "shown", count=2)
    session, outputs = run(lively, processor, "remembered", count=2)
    assert not overlap(outputs[1])
    features = lively.walk.backend.encode(session.get_frame(1)) if hasattr(lively, "walk") else None
    for obj_id in BOXES:
        entries = [s.objects[obj_id].memory.find(1) for s in (plain, shown, session)]
        assert torch.equal(entries[0].spatial, entries[1].spatial)
        assert torch.equal(entries[1].pred_masks, entries[2].pred_masks)
        if features is not None:
            expected = lively.walk.backend.remember_mask(features, entries[2])
            torch.testing.assert_close(entries[2].spatial, expected, rtol=1e-2, atol=1e-2)
        changed = not torch.equal(entries[0].pred_masks, entries[2].pred_masks)
        assert changed != torch.equal(entries[0].spatial, entries[2].spatial)


@pytest.mark.parametrize("name", ["skip_absent", "quality", "motion", "distractor_aware", "hypotheses"])
@pytest.mark.parametrize("competition", ["shown", "remembered"])
def test_a_strategy_sees_the_masks_that_are_remembered(competition, name, lively, processor):
    """Two objects on the same thing: one of them is left without a mask, and counts as absent where that is kept."""
    same = {1: BOXES[1], 2: BOXES[1], 3: BOXES[3]}
    session, outputs = run(lively, processor, competition, same, count=4, memory_selection=name)
    plain, _ = run(lively, processor, None, same, count=4, memory_selection=name)
    lost = 0
    for row, (obj_id, obj) in enumerate(session.objects.items()):
        for t in range(1, 4):
            facts, entry = obj.memory.strategy.facts[t], obj.memory.find(t)
            area = int((entry.pred_masks > 0).sum())
            assert area == int((outputs[t].pred_masks[row] > 0).sum())
            if competition == "remembered":
                assert facts.area == area and (facts.score > 0) == (area > 0)
                lost += area == 0
            elif t == 1:
                assert facts == plain.objects[obj_id].memory.strategy.facts[t]
    assert lost > 0 or competition == "shown"


def test_a_mask_that_is_taken_away_makes_an_object_absent():
    from efficienttam_hf.memory_selection import FrameObservation

    proposals = np.zeros((2, 4, 4), bool)
    proposals[0, :2], proposals[1, 0] = True, True
    seen = FrameObservation(3.0, np.array([0.9, 0.4]), 0, proposals.sum(axis=(1, 2)), proposals)
    cut = proposals[0].copy()
    cut[0, :2] = False
    left = seen.with_mask(cut)
    assert (left.area, left.score, left.masks[0].sum(), left.masks[1].sum()) == (6, 3.0, 6, 4)
    nothing = seen.with_mask(np.zeros((4, 4), bool))
    assert (nothing.area, nothing.score, nothing.facts.is_visible) == (0, 0.0, False)
    assert (seen.area, seen.masks[0].sum()) == (8, 8)  # as it was


@pytest.mark.parametrize("competition", ["shown", "remembered"])
def test_an_object_alone_competes_with_nobody(competition, lively, processor):
    _, plain = run(lively, processor, None, {1: BOXES[1]})
    _, alone = run(lively, processor, competition, {1: BOXES[1]}, keep_history=True)
    for a, b in zip(plain, alone, strict=True):
        assert torch.equal(a.pred_masks, b.pred_masks)


def test_names_are_checked_and_none_is_the_default(model, processor):
    assert TrackingRules().object_competition == "none" and model.config.object_competition == "none"
    with pytest.raises(ValueError, match="no object competition 'best'; choose one of none, shown, remembered"):
        processor.init_video_session(object_competition="best")
    with pytest.raises(ValueError, match="no object competition"):
        type(model.config)(object_competition="best")
